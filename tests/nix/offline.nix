# All that tests/nix/run asks, evaluated against the stand-in.
let
  nixpkgs = import ./nixpkgs;
  inherit (nixpkgs) lib;
  flake = import ../../flake.nix;
  self = flake.outputs { inherit self nixpkgs; } // {
    shortRev = "abc1234";
    outPath = toString ../..;
  };
  evaluate = modules: lib.nixosSystem { modules = [ self.nixosModules.default ] ++ modules; };
  package = self.packages.aarch64-linux.default;
  unless = condition: what: if condition then [ ] else [ what ];

  # With the program where a release's unit files expect it.
  host =
    settings:
    evaluate [
      {
        virtualisation.docker.enable = true;
        services.ci-docker-prune = settings // {
          enable = true;
          package = package // {
            outPath = "/usr/local";
          };
        };
      }
    ];
  system = host { };
  settingsFile = system: system.config.environment.etc."ci-docker-prune.toml".source;
  inherit (system.config.systemd) paths services timers;
  rendered =
    system:
    builtins.mapAttrs (_: unit: unit.text) system.config.systemd.units
    // directories
    // {
      "ci-docker-prune.toml" = (settingsFile system).file.text;
    };
  directories = {
    "ci-docker-prune.tmpfiles.conf" = lib.concatMapStringsSep "" (
      rule: rule + "\n"
    ) system.config.systemd.tmpfiles.rules;
  };
in
{
  failures =
    import ./cases.nix { inherit lib evaluate; }
    ++ unless (self.nixosModules ? ci-docker-prune) "the module by its name"
    ++ unless (
      (lib.nixosSystem {
        modules = [
          ../../modules
          {
            virtualisation.docker.enable = true;
            services.ci-docker-prune.enable = true;
          }
        ];
      }).config.services.ci-docker-prune.package.pname == "ci-docker-prune"
    ) "the module without the flake"
    ++ unless (
      builtins.attrNames self.packages == [
        "aarch64-linux"
        "x86_64-linux"
      ]
    ) "the flake's systems"
    ++ unless (
      package.version == (lib.importTOML ../../Cargo.toml).package.version
    ) "the package's version"
    ++ unless (
      package.env.CI_DOCKER_PRUNE_REVISION == "abc1234"
    ) "the revision does not reach the package"
    ++ unless (builtins.all builtins.pathExists package.src.fileset) "the package's files"
    ++ unless (package.meta.mainProgram == "ci-docker-prune") "the main program"
    ++ unless (!package.meta.broken) "the package is broken on a supported NixOS"
    ++ unless (
      (import ../../default.nix { pkgs = nixpkgs.legacyPackages.x86_64-linux; }).version
      == package.version
    ) "the package without the flake"
    ++ unless (
      (self.overlays.default nixpkgs.legacyPackages.x86_64-linux { }).ci-docker-prune
      == self.packages.x86_64-linux.default
    ) "the overlay"
    ++ unless (
      builtins.attrNames self.checks.x86_64-linux == [
        "clippy"
        "fmt"
        "module"
        "package"
        "vm"
      ]
    ) "the checks"
    ++ unless (self.checks.x86_64-linux.module.failures == "") "the module's check"
    ++ unless (self.devShells.x86_64-linux.default.packages != [ ]) "the shell"
    ++ unless (self.formatter.x86_64-linux.pname == "nixfmt-tree") "the formatter";

  # The files of the package, for a build of exactly these.
  sources = lib.concatMapStringsSep "" (path: toString path + "\n") package.src.fileset;

  options = import ./options-doc.nix lib (evaluate [ ]).options.services.ci-docker-prune;

  # The units of hosts, as NixOS writes them.
  units = {
    plain = rendered system;
    tcp = rendered (host {
      settings.host = "tcp://127.0.0.1:2375";
      settings.disk-path = [ "/var/lib/docker" ];
    });
  };

  # What the build of the configuration file runs; and where it must refuse the option that the name begins with.
  build = (settingsFile system).script;
  refused = builtins.mapAttrs (_: set: (settingsFile (host set)).script) {
    dates-zone.dates = "03:30 Europe/Berln";
    dates-never.dates = "2020-01-01";
    dates-word.dates = [
      "daily"
      "soon"
    ];
    recordInterval-zero.recordInterval = "0";
    recordInterval-word.recordInterval = "often";
    randomizedDelaySec-negative.randomizedDelaySec = "-5min";
    randomizedDelaySec-word.randomizedDelaySec = "a while";
  };

  # An example of the docs: what is wrong with it.
  example =
    file:
    let
      inherit (evaluate [ file ]) config;
      failed = builtins.filter (it: !it.assertion) config.assertions;
    in
    builtins.deepSeq config.systemd (lib.concatMapStringsSep "" (it: it.message) failed);

  # What a release carries for other distributions.
  release =
    lib.listToAttrs (
      lib.mapAttrsToList (name: unit: {
        name = "${name}.service";
        value = system.render.service (
          builtins.removeAttrs unit [ "restartIfChanged" ]
          // {
            serviceConfig = unit.serviceConfig // {
              ExecStart = "/usr/local/bin/ci-docker-prune ${
                if name == "ci-docker-prune" then "prune" else "record --wait 4m45s"
              }";
            };
          }
        );
      }) services
      ++ lib.mapAttrsToList (name: unit: {
        name = "${name}.timer";
        value = system.render.timer unit;
      }) timers
      ++ lib.mapAttrsToList (name: unit: {
        name = "${name}.path";
        value = system.render.path unit;
      }) paths
    )
    // directories
    // {
      "ci-docker-prune.sysusers.conf" = "u ci-docker-prune - \"ci-docker-prune\"\n";
      "ci-docker-prune.toml" = ''
        # The configuration; ci-docker-prune check-config --example shows every key.
        prune-at = ${toString system.config.services.ci-docker-prune.settings.prune-at}
      '';
    };

  vm = self.checks.x86_64-linux.vm.test { pkgs = nixpkgs.legacyPackages.x86_64-linux; };
}
