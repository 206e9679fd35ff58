# What can be set.
{
  lib,
  pkgs,
  config,
  ...
}:
let
  inherit (lib) mkOption types;

  settingsFormat = pkgs.formats.toml { };
  # What the program reads (humantime).
  duration =
    types.strMatching "([0-9]+ *(nsec|ns|usec|us|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y) *)+"
    // {
      description = "duration, such as 90s, 24h or 7d";
    };
  size = types.strMatching "[0-9]+([.][0-9]+)? *([kKmMgGtTpP]i?[bB]?|[bB])?" // {
    description = "size, such as 500M, 20G or 1.5TiB";
  };
  url = types.strMatching "unix:///.+|(tcp|http)://.+:[0-9]+" // {
    description = "URL, unix:///PATH or tcp://HOST:PORT";
  };
  percentage = types.ints.between 0 100;
  line = types.strMatching "[^\n]*[^[:space:]][^\n]*" // {
    description = "non-empty line";
  };

  # The file has only keys that are defined: a key in it is no default, and so does not follow others. `default` is the
  # program's.
  setting =
    type: default: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      defaultText = lib.literalMD "`${default}`";
      inherit example description;
    };

  docker = config.virtualisation.docker;
  inherit (import ./sockets.nix { inherit lib docker; }) sockets usual;
  # Where Docker listens somewhere else only, the program must be told.
  host =
    if !docker.enable || sockets == [ ] || lib.any (socket: lib.elem socket usual) sockets then
      null
    else
      "unix://${lib.head sockets}";

  settings = {
    freeformType = settingsFormat.type;

    options = {
      host = mkOption {
        type = types.nullOr url;
        default = host;
        defaultText = lib.literalMD "`null`, or the socket of `virtualisation.docker.listenOptions`";
        example = "unix:///run/other-docker.sock";
        description = ''
          The engine to prune; null: the one of {option}`virtualisation.docker`. The user `ci-docker-prune`
          must be able to use its socket: where that is not by the group `docker`, add the socket's group to the list
          `serviceConfig.SupplementaryGroups` of both services.
        '';
      };
      swarm-host = setting url "null" "tcp://manager.internal:2376" ''
        The engine to ask about services: on a Swarm worker, a manager. Null: the engine itself. Where TLS is
        wanted, {option}`services.ci-docker-prune.environmentFile` can set `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`.
      '';
      timeout = setting duration "30s" "1m" ''
        Timeout for one request to the engine; a list of images or containers may take ten times as long.
      '';
      removal-timeout = setting duration "10m" "30m" ''
        Timeout for one removal, while the engine answers other requests.
      '';

      disk-path = setting (types.listOf (types.strMatching "/.*")) "[ ]" [ "/var/lib/docker" ] ''
        Measure the filesystems of these paths; empty: where the engine, and the containerd that it uses,
        keep their data.
      '';
      disk-threshold = setting percentage "80" 85 ''
        The disk is under pressure, and a prune removes something, at or above this percentage of its blocks,
        inodes or, on btrfs, metadata.
      '';
      disk-min-free = setting size "null" "20G" ''
        The disk is under pressure too with less than this available. For ZFS and other pools, whose
        percentages say little.
      '';
      ci =
        setting
          (types.listOf (
            types.enum [
              "coop-cloud"
              "gitlab-runner"
              "woodpecker"
              "drone"
              "gitea-actions"
              "forgejo-actions"
              "github-actions"
              "buildkite"
              "jenkins"
            ]
          ))
          "[ ]"
          [ "gitlab-runner" ]
          ''
            The CI systems whose runs deploy here: their stacks, services, Compose projects and containers are known by
            name. Empty, without `run-pattern` too: `coop-cloud`. While a run is live, nothing is removed.
          '';
      run-pattern = setting (types.listOf types.nonEmptyStr) "[ ]" [ "^ci-[0-9]+([_-]|$)" ] ''
        Regular expressions (of Rust's `regex` crate) that the names of a CI run's stacks, services, Compose projects
        and containers match, beside those of `ci`.
      '';
      run-max-age = setting (types.either duration (types.enum [ "never" ])) "24h" "never" ''
        A run that has been live for longer is abandoned: it closes no gate, and is named in a warning. `never`: it
        always closes the gate.
      '';
      converge-max-age = setting (types.either duration (types.enum [ "never" ])) "24h" "never" ''
        A service that has not been converged for longer is stuck: it closes no gate, and is named in a warning.
        `never`: it always closes the gate.
      '';
      during-runs =
        setting
          (types.enum [
            "never"
            "critical"
          ])
          "never"
          "critical"
          ''
            `critical`: at or above `disk-critical` cached images are evicted beside live runs too, but for commands
            under `ci-docker-prune inhibit`, until the disk is below that.
          '';
      wait = setting duration "0s" "30m" ''
        How long `prune` and `check-gates` wait for `runs` and `converge` to open. The record service has its own.
      '';
      prune-wait = setting duration "10m" "30m" ''
        How long a command under `ci-docker-prune inhibit` lets a prune that is due go first, at most: longer where
        runs are long.
      '';

      older-than =
        setting duration "24h" "1h 30m"
          "Minimum age of what is removed, below `disk-critical`.";
      critical-age = setting duration "1h" "10m" ''
        Minimum time since last use of cached images that are evicted at or above `disk-critical`.
      '';
      disk-target = setting percentage "disk-threshold - 5" 60 ''
        Eviction of cached images stops below this percentage.
      '';
      disk-critical = setting percentage "95" 98 ''
        At or above this percentage, cached images are evicted that were used as recently as `critical-age` ago. A prune
        that still ends there fails (exit status 10), so that `OnFailure=` and the monitoring of failed
        units see it.
      '';
      evict-tagged =
        setting (types.listOf types.nonEmptyStr) "[ ]" [ "^registry\\.example\\.org/ci/.*:[0-9a-f]{40}$" ]
          ''
            Regular expressions. A tagged image whose every tag matches one of them is treated as a cached image:
            for the per-commit images of a CI that builds on this host.
          '';
      keep-label =
        setting (types.nonEmptyListOf (types.strMatching "[^=[:space:]]+(=.*)?")) "ci-docker-prune.keep"
          [
            "ci-docker-prune.keep"
            "com.example.role=builder"
          ]
          "Containers and images with one of these labels, `KEY` or `KEY=VALUE`, are never removed.";
      prune-at = mkOption {
        type = types.nullOr percentage;
        default = 90;
        example = 85;
        description = ''
          The record timer prunes too, behind the same gates, when the disk is at or above this percentage, or
          when an earlier prune under pressure was blocked, stopped or failed. Null: only {option}`services.ci-docker-prune.dates`.
        '';
      };

      output = setting (types.enum [
        "text"
        "json"
      ]) "text" "json" "How results are printed.";
      verbose = setting (types.ints.between 0 255) "0" 1 "Log more, and list everything that stays.";
      quiet =
        setting types.bool "false" true
          "Log errors only, and print no report of a prune that succeeds.";

      # A folder of it becomes a word of ReadWritePaths= too.
      metrics-file =
        setting
          (
            types.strMatching "/[^[:space:]%]+/[^/[:space:]%]+[.]prom"
            // {
              description = "absolute path without blanks that ends in .prom";
            }
          )
          "null"
          "/var/lib/node-exporter/ci-docker-prune.prom"
          ''
            Metrics of each prune, for the textfile collector of Prometheus' node exporter. Its folder is made
            where it is missing; in one that is there the user `ci-docker-prune` must be able to write.
          '';
    };
  };
in
{
  options.services.ci-docker-prune = {
    enable = lib.mkEnableOption "the daily prune of this Docker host, which keeps its image cache";

    package = mkOption {
      type = types.package;
      default = pkgs.ci-docker-prune or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalMD "`pkgs.ci-docker-prune`, else a build of this module's sources with the host's `pkgs`";
      description = "The ci-docker-prune package to use.";
    };

    settings = mkOption {
      type = types.submodule settings;
      default = { };
      example = {
        disk-threshold = 75;
        older-than = "48h";
      };
      description = ''
        The configuration, rendered to `/etc/ci-docker-prune.toml`: the services, `ci-docker-prune` on the PATH
        and a CI job all read it. Keys are the program's long options.
      '';
    };

    dates = mkOption {
      type = types.either line (types.nonEmptyListOf line);
      default = "daily";
      example = [
        "03:30"
        "15:30"
      ];
      description = "When to prune, as one or several calendar events of {manpage}`systemd.time(7)`.";
    };

    randomizedDelaySec = mkOption {
      type = line;
      default = "45min";
      example = "0";
      description = ''
        Delay each prune by a random time of up to this, as a time span of {manpage}`systemd.time(7)`: so that
        it does not meet the jobs that start at midnight, nor the nodes of a Swarm prune at once.
      '';
    };

    persistent = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether a prune that was missed while the host was off is made up for at boot.";
    };

    recordInterval = mkOption {
      type = types.nullOr line;
      default = "5min";
      example = "2min";
      description = ''
        How often current image usage is recorded in the ledger, as a time span of {manpage}`systemd.time(7)`;
        null: only by prunes.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr (
        types.strMatching "-?/[^\n]+" // { description = "absolute path, in a string"; }
      );
      default = null;
      example = "/run/secrets/ci-docker-prune.env";
      description = ''
        Environment variables for the units, such as `DOCKER_CERT_PATH`, as of `EnvironmentFile=` in
        {manpage}`systemd.exec(5)`. A string: a path literal would be copied into the store, which every user can read.
      '';
    };
  };
}
