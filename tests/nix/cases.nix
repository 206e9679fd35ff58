# What the module must do, against any nixpkgs: the list of what it does not.
{
  lib,
  # Modules -> what `lib.evalModules` makes of them, with the options of ./host.nix.
  evaluate,
}:
let
  inherit (builtins)
    all
    any
    attrNames
    concatMap
    deepSeq
    elem
    tryEval
    ;

  base = {
    services.ci-docker-prune.enable = true;
    virtualisation.docker.enable = true;
  };
  with' = modules: set: (evaluate (modules ++ [ { services.ci-docker-prune = set; } ])).config;
  of = with' [ base ];
  plain = of { };
  off = (evaluate [ { virtualisation.docker.enable = true; } ]).config;
  prune = config: config.systemd.services.ci-docker-prune;
  record = config: config.systemd.services.ci-docker-prune-record;
  pruneTimer = config: config.systemd.timers.ci-docker-prune.timerConfig;
  recordTimer = config: config.systemd.timers.ci-docker-prune-record.timerConfig;
  # What the build of the configuration file runs.
  build =
    config:
    let
      file = config.environment.etc."ci-docker-prune.toml".source;
    in
    file.script or file.buildCommand;
  # The configuration file, before it is rendered.
  settings = config: lib.filterAttrs (_: it: it != null) config.services.ci-docker-prune.settings;

  unless = condition: what: if condition then [ ] else [ what ];

  fires =
    modules: words:
    any (it: !it.assertion && lib.hasInfix words it.message) (evaluate modules).config.assertions;
  # Those of other modules are not ours to judge.
  quiet =
    config: !any (it: !it.assertion && lib.hasInfix "ci-docker-prune" it.message) config.assertions;
  warns = config: words: any (lib.hasInfix words) config.warnings;

  # What is set, where it must arrive, and as what.
  reaches = [
    [
      { dates = "weekly"; }
      (config: (pruneTimer config).OnCalendar)
      "weekly"
    ]
    [
      {
        dates = [
          "03:30"
          "15:30"
        ];
      }
      (config: (pruneTimer config).OnCalendar)
      [
        "03:30"
        "15:30"
      ]
    ]
    # A build has no time zones.
    [
      { dates = "03:30 Europe/Berlin"; }
      (config: lib.hasInfix "/share/zoneinfo/Europe/Berlin ||" (build config))
      true
    ]
    [
      { dates = "03:30 Europe/Berlin"; }
      (config: lib.hasInfix "calendar -- 03:30)" (build config))
      true
    ]
    [
      { dates = "Mon *-*-* 03:30:00"; }
      (config: lib.hasInfix "calendar -- 'Mon *-*-* 03:30:00')" (build config))
      true
    ]
    [
      { randomizedDelaySec = "0"; }
      (config: (pruneTimer config).RandomizedDelaySec)
      "0"
    ]
    [
      { persistent = false; }
      (config: (pruneTimer config).Persistent)
      false
    ]
    [
      { recordInterval = "2min"; }
      (config: (recordTimer config).OnUnitActiveSec)
      "2min"
    ]
    [
      { recordInterval = "2min"; }
      (config: (recordTimer config).OnActiveSec)
      "2min"
    ]
    [
      { environmentFile = "/run/secrets/env"; }
      (config: (prune config).serviceConfig.EnvironmentFile)
      "/run/secrets/env"
    ]
    [
      { environmentFile = "/run/secrets/env"; }
      (config: (record config).serviceConfig.EnvironmentFile)
      "/run/secrets/env"
    ]
    [
      { settings.metrics-file = "/var/lib/metrics/x.prom"; }
      (config: elem "-/var/lib/metrics" (record config).serviceConfig.ReadWritePaths)
      true
    ]
    [
      { settings.metrics-file = "/var/lib/metrics/x.prom"; }
      (config: config.systemd.tmpfiles.settings.zz-ci-docker-prune."/var/lib/metrics".d.mode)
      ":0755"
    ]
    [
      { settings.swarm-host = "tcp://manager:2376"; }
      (config: elem "AF_INET6" (prune config).serviceConfig.RestrictAddressFamilies)
      true
    ]
    [
      { settings.swarm-host = "tcp://manager:2376"; }
      (config: (prune config).serviceConfig.PrivateNetwork)
      false
    ]
    # What is not defined is no key: the program's defaults follow each other.
    [
      { settings.disk-threshold = 60; }
      (config: attrNames (settings config))
      [
        "disk-threshold"
        "prune-at"
      ]
    ]
    [
      { settings.disk-threshold = 99; }
      (config: all (it: it.assertion) config.assertions)
      true
    ]
    # Another engine is not docker.service's.
    [
      { settings.host = "unix:///run/other.sock"; }
      (
        config:
        (prune config) ? after
        && (prune config).after == [ ]
        && !(prune config).serviceConfig ? ExecCondition
      )
      true
    ]
    [
      { settings.host = "unix:///var/run/docker.sock"; }
      (config: (prune config).serviceConfig ? ExecCondition)
      true
    ]
    [
      { settings.swarm-host = "tcp://manager:2376"; }
      (
        config:
        elem "network-online.target" (prune config).after
        && (prune config).wants == [ "network-online.target" ]
      )
      true
    ]
  ];
  # Settings that the file has as they are.
  kept = [
    { disk-threshold = 85; }
    { disk-target = 60; }
    { disk-critical = 99; }
    { disk-min-free = "1.5TiB"; }
    { disk-min-free = "20g"; }
    { disk-min-free = "20Gi"; }
    { critical-age = "10m"; }
    {
      evict-tagged = [
        "^a:"
        "^b:.{1,3}"
      ];
    }
    { older-than = "1h 30m"; }
    { older-than = "1y"; }
    { run-pattern = [ "^ci-%d_.*$" ]; }
    {
      disk-path = [
        "/a"
        "/b"
      ];
    }
    {
      keep-label = [
        "a"
        "b=c,d"
      ];
    }
    { host = "unix:///x.sock"; }
    { swarm-host = "tcp://manager:2376"; }
    { prune-at = 85; }
    { timeout = "1m 500ms"; }
    { verbose = 2; }
    { output = "json"; }
  ];
  # What is of a wrong type.
  wrong = [
    { settings.older-than = "5 parsecs"; }
    { settings.disk-min-free = "20 parsecs"; }
    { settings.prune-at = 101; }
    { settings.evict-tagged = [ "" ]; }
    { settings.swarm-host = "tcp://manager"; }
    { settings.metrics-file = "/a dir/x.prom"; }
    { settings.metrics-file = "/x"; }
    { settings.metrics-file = "metrics.prom"; }
    { settings.metrics-file = "/var/lib/metrics/prune.txt"; }
    { settings.disk-path = [ "var/lib/docker" ]; }
    { settings.disk-threshold = 101; }
    { settings.disk-threshold = "80"; }
    { settings.disk-target = -1; }
    { settings.older-than = "soon"; }
    { settings.older-than = 7; }
    { settings.run-pattern = [ "" ]; }
    { settings.keep-label = [ ]; }
    { settings.keep-label = [ "=value" ]; }
    { settings.host = "docker.sock"; }
    { settings.swarm-host = "ssh://manager"; }
    { settings.output = "xml"; }
    { settings.quiet = 1; }
    { persistent = "yes"; }
    { dates = 7; }
    { dates = "daily\nweekly"; }
    { recordInterval = 5; }
    { environmentFile = ./cases.nix; }
    { environmentFile = "secrets.env"; }
    { dates = ""; }
    { dates = [ ]; }
    { randomizedDelaySec = " "; }
    { onCalendar = "daily"; }
  ];
  show = builtins.toJSON;
  first = list: builtins.elemAt list 0;
  second = list: builtins.elemAt list 1;
  third = list: builtins.elemAt list 2;
  sees =
    config:
    deepSeq [
      (settings config)
      (prune config).serviceConfig
      (record config).serviceConfig
      (pruneTimer config)
      (recordTimer config)
      config.systemd.tmpfiles.rules
    ] true;
in
concatMap (
  case:
  unless (
    second case (of (first case)) == third case
  ) "${show (first case)} does not arrive as ${show (third case)}"
) reaches
++ concatMap (
  set:
  unless (
    lib.filterAttrs (key: _: set ? ${key}) (
      settings (of {
        settings = set;
      })
    ) == set
  ) "${show set} is not in the configuration"
) kept
++ concatMap (
  set:
  unless (!(tryEval (sees (of set))).success)
    "${show (removeAttrs set [ "environmentFile" ])} is taken"
) wrong
++ unless (quiet plain) "an assertion fires on a plain host"
++ unless (!warns plain "ci-docker-prune") "there is a warning on a plain host"
++ unless ((settings plain).prune-at == 90) "no prune is urgent"
++ unless (!(settings plain) ? host) "a plain host names its engine"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.disk-treshold = 80; }
] "disk-treshold") "a key that is misspelt is no error"
++ unless (warns (of {
  settings.prune-at = 75;
}) "prune-at") "an urgent prune below the threshold, and no warning"
++ unless (fires [
  base
  { virtualisation.docker.autoPrune.enable = true; }
] "cache which ci-docker-prune keeps") "autoPrune beside it is no error"
++ unless (fires [
  base
  { services.docuum.enable = true; }
] "docuum") "docuum beside it is no error"
++ unless (fires [
  base
  {
    virtualisation.podman = {
      enable = true;
      autoPrune.enable = true;
      dockerSocket.enable = true;
    };
  }
] "podman") "podman's autoPrune on Docker's socket is no error"
++ unless (warns
  (evaluate [
    base
    { services.gitlab-runner.clear-docker-cache.enable = true; }
  ]).config
  "gitlab-runner"
) "gitlab-runner clears the cache, and no warning"
++ unless (fires [
  { services.ci-docker-prune.enable = true; }
] "no Docker engine") "a host without Docker is no error"
++ unless (fires [
  {
    services.ci-docker-prune.enable = true;
    virtualisation.docker.rootless.enable = true;
  }
] "cannot reach") "a rootless Docker is no error"
++ unless (fires [
  base
  { virtualisation.docker.listenOptions = [ "127.0.0.1:2375" ]; }
] "settings.host") "an engine without a socket is no error"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.host = "unix:///run/podman/podman.sock"; }
] "Podman") "Podman's socket is no error"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.state-dir = "/persist"; }
] "Mount another folder") "another state directory is no error that says what to do"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.metrics-file = "/tmp/x/y.prom"; }
] "PrivateTmp") "metrics in /tmp are no error"
++ unless (fires [
  base
  { services.ci-docker-prune.environmentFile = "${builtins.storeDir}/x"; }
] "every user can read") "a secret in the store is no error"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.disk-threshold = 97; }
  { services.ci-docker-prune.settings.disk-critical = 96; }
] "raise disk-critical") "a threshold above critical is no error"
++ unless (quiet (
  with' [ { services.ci-docker-prune.enable = true; } ] { settings.host = "unix:///run/other.sock"; }
)) "a host with an engine of its own is an error"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.disk-target = 90; }
] "must not exceed") "percentages that cross are no error"
++ unless (fires [
  base
  { services.ci-docker-prune.settings.host = "tcp://other:2376"; }
] "disk-path") "a remote disk that cannot be measured is no error"
++ unless (warns (of { recordInterval = null; }) "recordInterval") "no record timer, and no warning"
++ unless (
  !off.systemd.services ? ci-docker-prune && !off.environment.etc ? "ci-docker-prune.toml"
) "a host that did not enable it has it"
++ unless (
  !(of { recordInterval = null; }).systemd.services ? ci-docker-prune-record
) "the record unit is there although it is off"
++ unless (
  !elem "docker-prune" (attrNames plain.systemd.services) || plain.virtualisation.docker ? package
) "it defines docker-prune, which NixOS reserves"
++ unless (elem "timers.target" plain.systemd.timers.ci-docker-prune.wantedBy) "the timer is not enabled"
++ unless ((prune plain).wantedBy or [ ] == [ ]) "a switch or a boot would start a prune"
++ unless (!(prune plain).restartIfChanged) "a switch would restart a prune"
++ unless (
  (prune plain).after == [
    "docker.service"
    "docker.socket"
  ]
) "it does not wait for docker's socket"
++ unless (!(prune plain) ? wants) "it starts a stopped Docker"
++ unless (prune plain).serviceConfig.PrivateNetwork "it has a network that it does not need"
++ unless ((prune plain).serviceConfig.IPAddressDeny == "any") "it may send to the network"
++ unless (lib.hasInfix "=inactive" (record plain).serviceConfig.ExecCondition) "a stopped Docker is no reason to skip"
++ unless (
  (settings
    (evaluate [
      base
      { virtualisation.docker.listenOptions = [ "/run/other.sock" ]; }
    ]).config
  ).host == "unix:///run/other.sock"
) "another socket of Docker is ignored"
++ unless (
  !elem "docker"
    (prune (
      with' [ { services.ci-docker-prune.enable = true; } ] { settings.host = "unix:///x.sock"; }
    )).serviceConfig.SupplementaryGroups
) "it wants the group of a Docker that is not there"
++ unless (any (lib.hasPrefix "d /run/ci-docker-prune/inhibitors 3775 ci-docker-prune docker") plain.systemd.tmpfiles.rules) "the docker group cannot inhibit"
++ unless (elem plain.services.ci-docker-prune.package plain.environment.systemPackages) "the program is not on the PATH"
