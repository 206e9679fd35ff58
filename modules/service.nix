# What the options become: the configuration file, users, directories and units.
{
  config,
  lib,
  options,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.ci-docker-prune;
  inherit (config.virtualisation) docker;
  podman = config.virtualisation.podman or { };

  user = "ci-docker-prune";
  runtimeDir = "/run/ci-docker-prune";

  settings = lib.filterAttrs (_: value: value != null && value != [ ]) cfg.settings;
  hosts = lib.filter (host: host != null) [
    cfg.settings.host
    cfg.settings.swarm-host
  ];
  isRemote = host: !lib.hasPrefix "unix://" host;
  # The defined value, else the program's default.
  limit = name: default: if cfg.settings.${name} == null then default else cfg.settings.${name};
  threshold = limit "disk-threshold" 80;
  target = limit "disk-target" (threshold - 5);
  critical = limit "disk-critical" (if threshold > 95 then threshold else 95);
  inherit (import ./sockets.nix { inherit lib docker; }) sockets usual;
  # Whether the engine is that of docker.service.
  isOwn =
    docker.enable
    && lib.elem cfg.settings.host ([ null ] ++ map (socket: "unix://${socket}") (sockets ++ usual));
  network = lib.any isRemote hosts;
  # The group that may use the engine's socket, and so may inhibit.
  group = if docker.enable then "docker" else user;
  # Where both services write metrics.
  metrics = lib.optional (cfg.settings.metrics-file != null) (
    builtins.dirOf cfg.settings.metrics-file
  );
  unknown = lib.filter (key: !lib.elem key (lib.attrNames known ++ moved)) (
    lib.attrNames cfg.settings
  );
  # systemd makes these folders.
  moved = lib.filter (key: lib.hasAttr key cfg.settings) [
    "state-dir"
    "runtime-dir"
  ];
  known = options.services.ci-docker-prune.settings.type.getSubOptions [ ];

  refuse =
    option: what:
    "{ echo ${lib.escapeShellArg "services.ci-docker-prune.${option}: ${what}"} >&2; exit 1; }";
  checkDate =
    date:
    let
      # A build has no time zones to look one up in.
      parts = builtins.match "(.*[^ ]) +([A-Za-z][A-Za-z0-9_+/-]*)" date;
      event = if parts == null then date else lib.head parts;
      zone = lib.elemAt parts 1;
    in
    ''
      next=$(systemd-analyze calendar -- ${lib.escapeShellArg event}) || ${refuse "dates" "${date} is no calendar event, see systemd.time(7)"}
      case $next in *"Next elapse: never"*) ${refuse "dates" "${date} never elapses"} ;; esac
    ''
    + lib.optionalString (parts != null) ''
      test -e ${pkgs.tzdata}/share/zoneinfo/${lib.escapeShellArg zone} || ${refuse "dates" "there is no time zone ${zone}"}
    '';
  checkSpan = option: span: ''
    span=$(systemd-analyze timespan -- ${lib.escapeShellArg span}) || ${refuse option "${span} is no time span, see systemd.time(7)"}
  '';

  # What the program and systemd cannot read fails here, and not at midnight.
  settingsFile =
    pkgs.runCommand "ci-docker-prune.toml"
      {
        nativeBuildInputs = [ pkgs.buildPackages.systemd ];
        file = settingsFormat.generate "ci-docker-prune.toml" settings;
      }
      (
        lib.concatMapStringsSep "" checkDate (lib.toList cfg.dates)
        + checkSpan "randomizedDelaySec" cfg.randomizedDelaySec
        + lib.optionalString (cfg.recordInterval != null) (
          checkSpan "recordInterval" cfg.recordInterval
          + ''
            case $span in *"s: 0"*) ${refuse "recordInterval" "0 would start it without end; null turns it off"} ;; esac
          ''
        )
        + lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
          ${lib.getExe cfg.package} check-config "$file"
        ''
        + ''
          cp "$file" "$out"
        ''
      );
  settingsFormat = pkgs.formats.toml { };

  # A record that finds a run waits until shortly before its next start, so that one always waits.
  recordWait =
    let
      parts = builtins.match "([0-9]+) *(min|m|minutes?|h|hours?)" cfg.recordInterval;
      number = lib.toInt (lib.elemAt parts 0);
      seconds = if lib.hasPrefix "h" (lib.elemAt parts 1) then number * 3600 else number * 60;
    in
    if parts == null || cfg.recordInterval == "5min" then "4m45s" else "${toString (seconds - 15)}s";

  timer = description: timerConfig: {
    inherit description timerConfig;
    wantedBy = [ "timers.target" ];
  };
  service =
    description: timeout: command:
    lib.optionalAttrs network { wants = [ "network-online.target" ]; }
    // {
      inherit description;
      documentation = [ "man:ci-docker-prune(1)" ];
      after =
        lib.optionals isOwn [
          "docker.service"
          "docker.socket"
        ]
        ++ lib.optional network "network-online.target";
      # A deploy of the host neither ends a prune in the middle nor starts one.
      restartIfChanged = false;
      serviceConfig = {
        Type = "oneshot";
        TimeoutStartSec = timeout;
        ExecStart = utils.escapeSystemdExecArgs ([ (lib.getExe cfg.package) ] ++ command);
        User = user;
        Group = user;
        SupplementaryGroups = lib.optional docker.enable "docker";
        StateDirectory = "ci-docker-prune";
        StateDirectoryMode = "0755";
        # Not RuntimeDirectory=: inhibitors outlive the service.
        # A folder of the metrics that is gone is no reason not to prune.
        ReadWritePaths = [ runtimeDir ] ++ map (folder: "-${folder}") metrics;
        UMask = "0022";

        AmbientCapabilities = "";
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateNetwork = !network;
        PrivateTmp = true;
        PrivateUsers = true;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        # Not hidden: the engine's data, or a path to measure, may lie there.
        ProtectHome = "read-only";
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
        ]
        ++ lib.optionals network [
          "AF_INET"
          "AF_INET6"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      }
      // lib.optionalAttrs (!network) { IPAddressDeny = "any"; }
      // lib.optionalAttrs (cfg.environmentFile != null) {
        EnvironmentFile = cfg.environmentFile;
      }
      # A connection to its socket would start a stopped Docker: skip. A failed one is an error. Without a docker.service
      # the engine belongs to another unit.
      // lib.optionalAttrs isOwn {
        ExecCondition = utils.escapeSystemdExecArgs [
          pkgs.runtimeShell
          "-c"
          "case $(${pkgs.systemd}/bin/systemctl show --property LoadState,ActiveState docker.service) in *=not-found*) ;; *=inactive* | *=deactivating*) exit 1 ;; esac"
        ];
      };
    };
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !docker.autoPrune.enable;
        message = ''
          services.ci-docker-prune and virtualisation.docker.autoPrune do not go together: autoPrune runs
          `docker system prune`, which evicts every image that no container uses right now (with --all,
          and also without it those that Swarm pulled). That is the cache which ci-docker-prune keeps.
          Remove virtualisation.docker.autoPrune.
        '';
      }
      {
        assertion =
          !(
            podman.enable or false && podman.autoPrune.enable or false && podman.dockerSocket.enable or false
          );
        message = ''
          services.ci-docker-prune and virtualisation.podman.autoPrune with virtualisation.podman.dockerSocket
          would prune the same engine, and ci-docker-prune prunes Docker only. Remove one of them.
        '';
      }
      {
        assertion = !(config.services.docuum.enable or false);
        message = ''
          services.docuum evicts images by its own rules, whatever a run or a rollback needs, also those that
          ci-docker-prune keeps. Remove services.docuum.
        '';
      }
      {
        assertion = docker.enable || cfg.settings.host != null;
        message = ''
          services.ci-docker-prune has no Docker engine: set virtualisation.docker.enable, or name an engine
          with services.ci-docker-prune.settings.host.
          ${lib.optionalString (docker.rootless.enable or false) ''
            virtualisation.docker.rootless is an engine for each user, which a service of the system cannot reach.
          ''}'';
      }
      {
        assertion =
          !docker.enable || cfg.settings.host != null || docker.listenOptions or [ ] == [ ] || sockets != [ ];
        message = ''
          virtualisation.docker.listenOptions has no socket: name the engine with
          services.ci-docker-prune.settings.host, such as "tcp://127.0.0.1:2375".
        '';
      }
      {
        assertion = cfg.settings.host == null || !lib.hasInfix "podman" cfg.settings.host;
        message = ''
          services.ci-docker-prune.settings.host is Podman's socket, and ci-docker-prune prunes Docker only.
        '';
      }
      {
        assertion = target <= threshold;
        message = ''
          services.ci-docker-prune.settings.disk-target ${toString target} must not exceed disk-threshold
          ${toString threshold}: lower it, or raise disk-threshold.
        '';
      }
      {
        assertion = threshold <= critical;
        message = ''
          services.ci-docker-prune.settings.disk-threshold ${toString threshold} must not exceed disk-critical
          ${toString critical}: lower it, or raise disk-critical.
        '';
      }
      {
        assertion =
          cfg.settings.host == null
          || !isRemote cfg.settings.host
          || !lib.elem cfg.settings.disk-path [
            null
            [ ]
          ];
        message = ''
          services.ci-docker-prune.settings.host is no socket of this host, so that it is not known which disk to
          measure: name paths on it in services.ci-docker-prune.settings.disk-path.
        '';
      }
      {
        assertion = unknown == [ ];
        message = ''
          services.ci-docker-prune.settings has keys that the program does not know:
          ${lib.concatStringsSep ", " unknown}. `ci-docker-prune check-config --example` shows its keys.
        '';
      }
      {
        assertion = moved == [ ];
        message = ''
          services.ci-docker-prune.settings cannot have ${lib.concatStringsSep ", " moved}: the services keep their state in
          /var/lib/ci-docker-prune and ${runtimeDir}. Mount another folder there instead.
        '';
      }
      {
        assertion =
          cfg.settings.metrics-file == null
          || !lib.any (folder: lib.hasPrefix folder cfg.settings.metrics-file) [
            "/tmp/"
            "/var/tmp/"
          ];
        message = ''
          services.ci-docker-prune.settings.metrics-file must not lie in /tmp or /var/tmp, of which the services have
          their own (PrivateTmp=).
        '';
      }
      {
        assertion = cfg.environmentFile == null || !lib.hasInfix builtins.storeDir cfg.environmentFile;
        message = ''
          services.ci-docker-prune.environmentFile lies in the store, which every user can read.
        '';
      }
    ];
    warnings =
      lib.optional (cfg.recordInterval == null) ''
        services.ci-docker-prune.recordInterval is null: an image that is used only between two prunes
        counts as unused, and may be evicted although every CI run needs it.
      ''
      ++ lib.optional (cfg.settings.prune-at != null && cfg.settings.prune-at < threshold) ''
        services.ci-docker-prune.settings.prune-at is below disk-threshold, where no prune removes anything: the
        threshold counts.
      ''
      ++ lib.optional (config.services.gitlab-runner.clear-docker-cache.enable or false) ''
        services.gitlab-runner.clear-docker-cache removes images and volumes of the runner on its own schedule,
        also those that ci-docker-prune keeps.
      '';

    environment.systemPackages = [ cfg.package ];
    environment.etc."ci-docker-prune.toml".source = settingsFile;

    users.users.${user} = {
      isSystemUser = true;
      group = user;
    };
    users.groups.${user} = { };

    systemd.tmpfiles.rules = [
      "d ${runtimeDir} 0755 ${user} ${group} -"
      # Sticky: no user can remove another's inhibitor.
      "d ${runtimeDir}/inhibitors 3775 ${user} ${group} -"
      "d ${runtimeDir}/prunes 3775 ${user} ${group} -"
      "d ${runtimeDir}/requests 3775 ${user} ${group} -"
    ];
    # After the host's own rules for it, which win.
    systemd.tmpfiles.settings."zz-ci-docker-prune" = lib.genAttrs metrics (_: {
      # One that is there stays as it is.
      d = {
        mode = ":0755";
        user = ":${user}";
        group = ":${user}";
      };
    });

    # An engine that hangs is given up after --timeout for each answer; these limits end what was not foreseen,
    # and a prune that is told to end stops between two removals.
    systemd.services.ci-docker-prune = service "Prune the Docker host, keeping its image cache" "1h" [
      "prune"
    ];
    systemd.timers.ci-docker-prune = timer "Daily Docker prune" {
      OnCalendar = cfg.dates;
      Persistent = cfg.persistent;
      RandomizedDelaySec = cfg.randomizedDelaySec;
    };

    systemd.services.ci-docker-prune-record = lib.mkIf (cfg.recordInterval != null) (
      service "Record Docker image usage, and prune if that is due" "1h" [
        "record"
        "--wait"
        recordWait
      ]
      // {
        # Each command that asks for a prune starts it.
        unitConfig.StartLimitIntervalSec = 0;
      }
    );
    # A command under inhibit asks for a prune by a file in this folder.
    systemd.paths.ci-docker-prune-record = lib.mkIf (cfg.recordInterval != null) {
      description = "Prune where a command asks for it";
      wantedBy = [ "paths.target" ];
      pathConfig.PathChanged = "${runtimeDir}/requests";
    };
    systemd.timers.ci-docker-prune-record = lib.mkIf (cfg.recordInterval != null) (
      timer "Record Docker image usage" {
        # Counted from the start of the timer, so that a deploy of the host does not start it.
        OnActiveSec = cfg.recordInterval;
        OnUnitActiveSec = cfg.recordInterval;
        # It waits until shortly before its next start.
        AccuracySec = "1s";
      }
    );
  };
}
