# What can be set.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;

  percentage = types.ints.between 0 100;
  # What the program reads (humantime).
  duration = types.strMatching "([0-9]+ *(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|M|months?) *)+";
  size = types.strMatching "[0-9]+([.][0-9]+)? *([kKMGTP]i?B|[kKMGTP]|B)?";
  url = types.strMatching "unix:///.+|(tcp|http)://.+:[0-9]+";

  percent =
    default: example: description:
    mkOption {
      type = percentage;
      inherit default example description;
    };
in
{
  options.services.ci-docker-prune = {
    enable = lib.mkEnableOption "the daily prune of this Docker host, which keeps its image cache";

    package = lib.mkPackageOption pkgs "ci-docker-prune" {
      extraDescription = "The flake's module sets the flake's own build.";
    };

    onCalendar = mkOption {
      type = types.nonEmptyStr;
      default = "daily";
      example = "*-*-* 03:30:00";
      description = "When to prune, as a calendar event of {manpage}`systemd.time(7)`.";
    };

    randomizedDelaySec = mkOption {
      type = types.nonEmptyStr;
      default = "0";
      example = "45min";
      description = ''
        Delay each prune by a random time of up to this, as a time span of {manpage}`systemd.time(7)`:
        so that the nodes of a Swarm do not all prune at once.
      '';
    };

    persistent = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether a prune that was missed while the host was off is made up for at boot.";
    };

    diskThreshold = percent 80 85 ''
      Nothing is removed while the disk is below this percentage of its blocks and of its inodes.
    '';

    diskMinFree = mkOption {
      type = types.nullOr size;
      default = null;
      example = "20G";
      description = ''
        The disk is under pressure too with less than this available. For ZFS and other pools, whose
        percentages say little.
      '';
    };

    diskTarget = percent 70 60 ''
      Eviction of cached images stops below this percentage.
    '';

    diskCritical = percent 95 98 ''
      At or above this percentage cached images go that were used as lately as {option}`criticalAge` ago. A
      prune that ends there all the same fails (exit status 10), so that `OnFailure=` and the monitoring of
      failed units see it.
    '';

    pruneAt = mkOption {
      type = types.nullOr percentage;
      default = 90;
      example = 85;
      description = ''
        The record timer prunes too, behind the same gates, when the disk is at or above this percentage, or
        when an earlier prune under pressure was blocked, stopped or failed. Null: only {option}`onCalendar`.
      '';
    };

    olderThan = mkOption {
      type = duration;
      default = "24h";
      example = "1h 30m";
      description = "Minimum age of what is removed, below {option}`diskCritical`.";
    };

    cacheAge = mkOption {
      type = duration;
      default = "7d";
      example = "14d";
      description = ''
        Time since its last use up to which a cached image stays while {option}`diskTarget` can be reached
        without it.
      '';
    };

    criticalAge = mkOption {
      type = duration;
      default = "1h";
      example = "10m";
      description = "Minimum time since last use of cached images that go at or above {option}`diskCritical`.";
    };

    evictTagged = mkOption {
      type = types.listOf types.nonEmptyStr;
      default = [ ];
      example = [ "^registry\\.example\\.org/ci/.*:[0-9a-f]{40}$" ];
      description = ''
        Regular expressions. A tagged image whose every tag matches one of them is treated as a cached image:
        for the per-commit images of a CI that builds on this host.
      '';
    };

    runPattern = mkOption {
      type = types.nonEmptyStr;
      default = "^[^_]{1,4}-[0-9a-f]{6}_ci_commoninternet_net(_|$)";
      example = "^ci-[0-9]+_";
      description = ''
        Regular expression (of Rust's `regex` crate) that the names of a CI run's stacks, services,
        Compose projects and containers match. While one is live, nothing is removed.
      '';
    };

    diskPaths = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = [ "/var/lib/docker" ];
      description = "Measure the filesystems of these paths; empty: where the engine keeps its data.";
    };

    keepLabels = mkOption {
      type = types.nonEmptyListOf (types.strMatching "[^,=[:space:]]+(=[^,]*)?");
      default = [ "ci-docker-prune.keep" ];
      example = [
        "ci-docker-prune.keep"
        "com.example.role=builder"
      ];
      description = "Containers and images with one of these labels, `KEY` or `KEY=VALUE`, are never removed.";
    };

    dockerHost = mkOption {
      type = types.nullOr url;
      default = null;
      example = "tcp://127.0.0.1:2375";
      description = ''
        The engine to prune; null: the one of {option}`virtualisation.docker`. The user `ci-docker-prune` must
        be able to use its socket: where that is not by the group `docker`, add the socket's group to
        `serviceConfig.SupplementaryGroups` of both services.
      '';
    };

    swarmHost = mkOption {
      type = types.nullOr url;
      default = null;
      example = "tcp://manager.internal:2376";
      description = ''
        The engine to ask about services: on a Swarm worker, a manager. Null: the engine itself. Where
        TLS is wanted, {option}`environmentFile` can set `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`.
      '';
    };

    recordInterval = mkOption {
      type = types.nullOr types.nonEmptyStr;
      default = "5min";
      example = "2min";
      description = ''
        How often current image usage is recorded in the ledger, as a time span of
        {manpage}`systemd.time(7)`; null: never but at each prune.
      '';
    };

    metricsFile = mkOption {
      # It becomes a word of ReadWritePaths= too.
      type = types.nullOr (types.strMatching "/[^[:space:]%]*");
      default = null;
      example = "/var/lib/node-exporter/ci-docker-prune.prom";
      description = ''
        Metrics of each prune, for the textfile collector of Prometheus' node exporter. Its directory must
        exist, and the user `ci-docker-prune` must be able to write to it.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/secrets/ci-docker-prune.env";
      description = "Environment variables for the units, as of `EnvironmentFile=` in {manpage}`systemd.exec(5)`.";
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--verbose" ];
      description = "Further arguments of `ci-docker-prune prune` and, for the prunes that it makes, `record`.";
    };
  };
}
