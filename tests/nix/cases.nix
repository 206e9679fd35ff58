# What the module must do, against any nixpkgs: the list of what it does not.
{
  lib,
  # Modules -> what `lib.nixosSystem` makes of them.
  evaluate,
}:
let
  inherit (builtins)
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
  of =
    settings:
    (evaluate [
      base
      { services.ci-docker-prune = settings; }
    ]).config;
  plain = of { };
  off = (evaluate [ { virtualisation.docker.enable = true; } ]).config;
  text = config: name: config.systemd.units.${name}.text;
  has = config: name: config.systemd.units ? ${name};
  lines = config: name: lib.splitString "\n" (text config name);

  unless = condition: what: if condition then [ ] else [ what ];

  fires =
    modules: words:
    any (it: !it.assertion && lib.hasInfix words it.message) (evaluate modules).config.assertions;
  # Those of other modules are not ours to judge.
  quiet =
    config: !any (it: !it.assertion && lib.hasInfix "ci-docker-prune" it.message) config.assertions;
  warns = config: words: any (lib.hasInfix words) config.warnings;

  prune = "ci-docker-prune.service";
  record = "ci-docker-prune-record.service";

  # Settings, the unit that they change, and the whole line that says so.
  reaches = [
    [
      { onCalendar = "weekly"; }
      "ci-docker-prune.timer"
      "OnCalendar=weekly"
    ]
    [
      { randomizedDelaySec = "45min"; }
      "ci-docker-prune.timer"
      "RandomizedDelaySec=45min"
    ]
    [
      { persistent = false; }
      "ci-docker-prune.timer"
      "Persistent=false"
    ]
    [
      { recordInterval = "2min"; }
      "ci-docker-prune-record.timer"
      "OnUnitActiveSec=2min"
    ]
    [
      { recordInterval = "2min"; }
      "ci-docker-prune-record.timer"
      "OnActiveSec=2min"
    ]
    [
      { metricsFile = "/var/lib/metrics/x.prom"; }
      prune
      "ReadWritePaths=/var/lib/metrics"
    ]
    [
      { metricsFile = "/var/lib/metrics/x.prom"; }
      record
      "ReadWritePaths=/var/lib/metrics"
    ]
    [
      { environmentFile = "/run/secrets/env"; }
      prune
      "EnvironmentFile=/run/secrets/env"
    ]
    [
      { environmentFile = "/run/secrets/env"; }
      record
      "EnvironmentFile=/run/secrets/env"
    ]
    [
      { swarmHost = "tcp://manager:2376"; }
      prune
      "RestrictAddressFamilies=AF_INET6"
    ]
    [
      { swarmHost = "tcp://manager:2376"; }
      prune
      "PrivateNetwork=false"
    ]
  ];
  # Settings, and the argument of the prune that they become.
  arguments = [
    [
      { diskThreshold = 85; }
      "--disk-threshold=85"
    ]
    [
      { diskTarget = 60; }
      "--disk-target=60"
    ]
    [
      { diskCritical = 99; }
      "--disk-critical=99"
    ]
    [
      { diskMinFree = "1.5TiB"; }
      "--disk-min-free=1.5TiB"
    ]
    [
      { criticalAge = "10m"; }
      "--critical-age=10m"
    ]
    [
      {
        evictTagged = [
          "^a:"
          "^b:.{1,3}"
        ];
      }
      "--evict-tagged=(?:^a:)|(?:^b:.{1,3})"
    ]
    [
      { olderThan = "1h 30m"; }
      "--older-than=1h 30m"
    ]
    [
      { cacheAge = "14d"; }
      "--cache-age=14d"
    ]
    # systemd would expand `$` and `%`.
    [
      { runPattern = "^ci-%d_.*$"; }
      "--run-pattern=^ci-%%d_.*$$"
    ]
    [
      {
        diskPaths = [
          "/a"
          "/b"
        ];
      }
      "--disk-path=/a,/b"
    ]
    [
      {
        keepLabels = [
          "a"
          "b=c"
        ];
      }
      "--keep-label=a,b=c"
    ]
    [
      { dockerHost = "unix:///x.sock"; }
      "--host=unix:///x.sock"
    ]
    [
      { swarmHost = "tcp://manager:2376"; }
      "--swarm-host=tcp://manager:2376"
    ]
    [
      { metricsFile = "/var/lib/metrics/x.prom"; }
      "--metrics-file=/var/lib/metrics/x.prom"
    ]
    [
      { extraArgs = [ "--verbose" ]; }
      "--verbose"
    ]
  ];
  # Settings of a wrong type.
  wrong = [
    { olderThan = "5 parsecs"; }
    { diskMinFree = "20 parsecs"; }
    { pruneAt = 101; }
    { evictTagged = [ "" ]; }
    { swarmHost = "tcp://manager"; }
    { metricsFile = "/a dir/x.prom"; }
    { diskThreshold = 101; }
    { diskThreshold = "80"; }
    { diskTarget = -1; }
    { olderThan = "soon"; }
    { cacheAge = 7; }
    { runPattern = ""; }
    { diskPaths = [ "relative" ]; }
    { keepLabels = [ ]; }
    { keepLabels = [ "a,b" ]; }
    { keepLabels = [ "=value" ]; }
    { dockerHost = "docker.sock"; }
    { swarmHost = "ssh://manager"; }
    { persistent = "yes"; }
    { onCalendar = ""; }
    { metricsFile = "metrics.prom"; }
    { extraArgs = "--verbose"; }
    { diskTreshold = 80; }
  ];
  show = builtins.toJSON;
  first = list: builtins.elemAt list 0;
  second = list: builtins.elemAt list 1;
  third = list: builtins.elemAt list 2;
in
concatMap (
  case:
  unless (elem (third case) (lines (of (first case)) (second case))) "${show (first case)} does not reach ${second case} as ${third case}"
) reaches
++ concatMap (
  case:
  unless (lib.hasInfix (show (second case)) (text (of (first case)) prune)) "${show (first case)} does not become the argument ${second case}"
) arguments
++ concatMap (
  settings:
  unless (
    !(tryEval (
      deepSeq (
        text (of settings) prune + text (of settings) record + text (of settings) "ci-docker-prune.timer"
      ) true
    )).success
  ) "${show settings} is taken"
) wrong
++ unless (lib.hasInfix (show "--dry-run") (
  text (of { extraArgs = [ "--dry-run" ]; }) record
)) "a dry run for ever, and the record timer prunes"
++ unless (lib.hasInfix "--prune-at=90" (text plain record)) "no prune is urgent"
++ unless (lib.hasInfix "--older-than=24h" (text plain record)) "an urgent prune has other settings"
++ unless (
  !lib.hasInfix "--prune-at" (text (of { pruneAt = null; }) record)
) "the record timer prunes although that is off"
++ unless (warns (of {
  pruneAt = 75;
}) "pruneAt") "an urgent prune below the threshold, and no warning"
++ unless (quiet plain) "an assertion fires on a plain host"
++ unless (!warns plain "ci-docker-prune") "there is a warning on a plain host"
++ unless (fires [
  base
  { virtualisation.docker.autoPrune.enable = true; }
] "cache which ci-docker-prune keeps") "autoPrune beside it is no error"
++ unless (fires [
  { services.ci-docker-prune.enable = true; }
] "no Docker engine") "a host without Docker is no error"
++ unless (quiet
  (evaluate [
    {
      services.ci-docker-prune.enable = true;
      services.ci-docker-prune.dockerHost = "unix:///run/podman/podman.sock";
    }
  ]).config
) "a host with an engine of its own is an error"
++ unless (fires [
  base
  { services.ci-docker-prune.diskTarget = 90; }
] "must rise") "percentages that fall are no error"
++ unless (fires [
  base
  { services.ci-docker-prune.dockerHost = "tcp://other:2376"; }
] "diskPaths") "a remote disk that nobody can measure is no error"
++ unless (warns (of { recordInterval = null; }) "recordInterval") "no record timer, and no warning"
++ unless (warns (of {
  extraArgs = [ "--dry-run" ];
}) "nothing is") "a dry run for ever, and no warning"
++ unless (!has off prune) "a host that did not enable it has the unit"
++ unless (
  !has (of { recordInterval = null; }) record
) "the record unit is there although it is off"
++ unless (
  !elem "docker-prune" (attrNames plain.systemd.services) || plain.virtualisation.docker ? package
) "it defines docker-prune, which NixOS reserves"
++ unless (elem "timers.target" plain.systemd.timers.ci-docker-prune.wantedBy) "the timer is not enabled"
++ unless (
  plain.systemd.services.ci-docker-prune.wantedBy or [ ] == [ ]
) "a switch or a boot would start a prune"
++ unless (elem "X-RestartIfChanged=false" (lines plain prune)) "a switch would restart a prune"
++ unless (elem "After=docker.service docker.socket" (lines plain prune)) "it does not wait for docker's socket"
++ unless (elem "Wants=docker.socket" (lines plain prune)) "it does not want docker's socket"
++ unless (elem "PrivateNetwork=true" (lines plain prune)) "it has a network that it does not need"
++ unless (elem "IPAddressDeny=any" (lines plain prune)) "it may send to the network"
++ unless (
  !elem "SupplementaryGroups=docker" (
    lines
      (evaluate [
        {
          services.ci-docker-prune.enable = true;
          services.ci-docker-prune.dockerHost = "unix:///x.sock";
        }
      ]).config
      prune
  )
) "it wants the group of a Docker that is not there"
++ unless (any (lib.hasPrefix "d /run/ci-docker-prune/inhibitors 3775 ci-docker-prune docker") plain.systemd.tmpfiles.rules) "the docker group cannot inhibit"
++ unless (any
  (
    it:
    lib.hasInfix "'CI_DOCKER_PRUNE_DISK_THRESHOLD' '85'" (it.buildCommand or "")
    || lib.hasInfix "CI_DOCKER_PRUNE_DISK_THRESHOLD 85" (it.buildCommand or "")
  )
  (of { diskThreshold = 85; }).environment.systemPackages
) "the program on the PATH does not know the service's settings"
