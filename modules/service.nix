# What the options become: users, directories, units, and the program on the PATH.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.ci-docker-prune;
  docker = config.virtualisation.docker;

  user = "ci-docker-prune";
  runtimeDir = "/run/ci-docker-prune";

  hosts = lib.filter (host: host != null) [
    cfg.dockerHost
    cfg.swarmHost
  ];
  isRemote = host: !lib.hasPrefix "unix://" host;
  network = lib.any isRemote hosts;
  # The group that may use the engine's socket, and so may inhibit.
  group = if docker.enable then "docker" else user;

  # Options of the program, by name; null where it is left to itself.
  engine = {
    host = cfg.dockerHost;
    swarm-host = cfg.swarmHost;
  };
  settings = engine // {
    disk-threshold = toString cfg.diskThreshold;
    disk-min-free = cfg.diskMinFree;
    disk-target = toString cfg.diskTarget;
    disk-critical = toString cfg.diskCritical;
    older-than = cfg.olderThan;
    cache-age = cfg.cacheAge;
    critical-age = cfg.criticalAge;
    # One expression for all: commas may stand in it.
    evict-tagged =
      if cfg.evictTagged == [ ] then
        null
      else
        lib.concatMapStringsSep "|" (pattern: "(?:${pattern})") cfg.evictTagged;
    run-pattern = cfg.runPattern;
    disk-path =
      if cfg.diskPaths == [ ] then null else lib.concatMapStringsSep "," toString cfg.diskPaths;
    keep-label = lib.concatStringsSep "," cfg.keepLabels;
    metrics-file = if cfg.metricsFile == null then null else toString cfg.metricsFile;
  };
  # Where both services write metrics.
  metrics = lib.optional (cfg.metricsFile != null) (builtins.dirOf (toString cfg.metricsFile));
  given = lib.filterAttrs (_: value: value != null);
  arguments = options: lib.mapAttrsToList (name: value: "--${name}=${value}") (given options);

  # For a person or a CI job on this host, with the settings of the service as defaults: what
  # `ci-docker-prune --dry-run` shows is what the service would do.
  variable = name: "CI_DOCKER_PRUNE_" + lib.toUpper (lib.replaceStrings [ "-" ] [ "_" ] name);
  program = pkgs.symlinkJoin {
    name = "ci-docker-prune";
    paths = [ cfg.package ];
    nativeBuildInputs = [ pkgs.makeBinaryWrapper ];
    postBuild = ''
      wrapProgram $out/bin/ci-docker-prune ${
        lib.escapeShellArgs (
          lib.concatLists (
            lib.mapAttrsToList (name: value: [
              "--set-default"
              (variable name)
              value
            ]) (given (builtins.removeAttrs settings [ "metrics-file" ]))
          )
        )
      }
    '';
  };

  timer = description: timerConfig: {
    inherit description timerConfig;
    wantedBy = [ "timers.target" ];
  };
  service = description: timeout: writable: words: {
    inherit description;
    documentation = [ "man:ci-docker-prune(1)" ];
    after = lib.optionals docker.enable [
      "docker.service"
      "docker.socket"
    ];
    wants = lib.optional docker.enable "docker.socket";
    # A deploy of the host neither ends a prune in the middle nor starts one.
    restartIfChanged = false;
    serviceConfig = {
      Type = "oneshot";
      TimeoutStartSec = timeout;
      ExecStart = utils.escapeSystemdExecArgs ([ (lib.getExe cfg.package) ] ++ words);
      User = user;
      Group = user;
      SupplementaryGroups = lib.optional docker.enable "docker";
      StateDirectory = "ci-docker-prune";
      StateDirectoryMode = "0755";
      # Not RuntimeDirectory=: inhibitors outlive the service.
      ReadWritePaths = [ runtimeDir ] ++ writable;
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
      EnvironmentFile = toString cfg.environmentFile;
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
        assertion = docker.enable || cfg.dockerHost != null;
        message = ''
          services.ci-docker-prune has no Docker engine: set virtualisation.docker.enable, or name an
          engine with services.ci-docker-prune.dockerHost.
        '';
      }
      {
        assertion = cfg.diskTarget <= cfg.diskThreshold && cfg.diskThreshold <= cfg.diskCritical;
        message = ''
          The percentages of services.ci-docker-prune must rise: diskTarget ${toString cfg.diskTarget} <=
          diskThreshold ${toString cfg.diskThreshold} <= diskCritical ${toString cfg.diskCritical}.
        '';
      }
      {
        assertion = cfg.dockerHost == null || !isRemote cfg.dockerHost || cfg.diskPaths != [ ];
        message = ''
          services.ci-docker-prune.dockerHost is on another host, whose disk cannot be measured from here:
          name paths that show it in services.ci-docker-prune.diskPaths.
        '';
      }
    ];
    warnings =
      lib.optional (cfg.recordInterval == null) ''
        services.ci-docker-prune.recordInterval is null: an image that is used only between two prunes
        counts as unused, and may be evicted although every CI run needs it.
      ''
      ++ lib.optional (cfg.pruneAt != null && cfg.pruneAt < cfg.diskThreshold) ''
        services.ci-docker-prune.pruneAt is below diskThreshold, where no prune removes anything: the threshold
        counts.
      ''
      ++ lib.optional (lib.elem "--dry-run" cfg.extraArgs) ''
        services.ci-docker-prune.extraArgs has --dry-run: the service shows what would go, and nothing is
        ever removed.
      '';

    environment.systemPackages = [ program ];

    users.users.${user} = {
      isSystemUser = true;
      group = user;
    };
    users.groups.${user} = { };

    systemd.tmpfiles.rules = [
      "d ${runtimeDir} 0755 ${user} ${group} -"
      # Sticky: nobody clears another's inhibitor away.
      "d ${runtimeDir}/inhibitors 3775 ${user} ${group} -"
    ];

    # An engine that hangs is given up after --timeout for each answer; these limits end what nobody
    # foresaw, and a prune that is told to end stops between two removals.
    systemd.services.ci-docker-prune =
      service "Prune the Docker host, keeping its image cache" "1h" metrics
        ([ "prune" ] ++ arguments settings ++ cfg.extraArgs);
    systemd.timers.ci-docker-prune = timer "Daily Docker prune" {
      OnCalendar = cfg.onCalendar;
      Persistent = cfg.persistent;
      RandomizedDelaySec = cfg.randomizedDelaySec;
    };

    systemd.services.ci-docker-prune-record = lib.mkIf (cfg.recordInterval != null) (
      service "Record Docker image usage, and prune if that is due" "1h" metrics (
        [ "record" ]
        ++ arguments (
          settings // { prune-at = if cfg.pruneAt == null then null else toString cfg.pruneAt; }
        )
        ++ cfg.extraArgs
      )
    );
    systemd.timers.ci-docker-prune-record = lib.mkIf (cfg.recordInterval != null) (
      timer "Record Docker image usage" {
        # Counted from the start of the timer, so that a deploy of the host does not start it.
        OnActiveSec = cfg.recordInterval;
        OnUnitActiveSec = cfg.recordInterval;
      }
    );
  };
}
