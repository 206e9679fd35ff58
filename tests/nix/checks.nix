# The flake's checks.
{
  self,
  nixpkgs,
  pkgs,
}:
let
  inherit (pkgs.stdenv.hostPlatform) system;
  package = self.packages.${system}.default;
in
{
  inherit package;

  clippy = package.overrideAttrs (old: {
    pname = "${old.pname}-clippy";
    src = self;
    nativeBuildInputs = old.nativeBuildInputs ++ [ pkgs.clippy ];
    buildPhase = "cargo clippy --workspace --all-targets --offline -- --deny warnings";
    installPhase = "touch $out";
    doCheck = false;
    doInstallCheck = false;
    postInstall = "";
  });

  fmt =
    pkgs.runCommand "fmt"
      {
        nativeBuildInputs = [
          pkgs.cargo
          pkgs.deadnix
          pkgs.nixfmt
          pkgs.rustfmt
        ];
      }
      ''
        cd ${self}
        cargo fmt --all --check
        find . -name '*.nix' -exec nixfmt --check {} +
        deadnix --fail .
        touch $out
      '';

  # The same cases as tests/nix/run, against the real NixOS.
  module =
    let
      failures = import ./cases.nix {
        inherit (nixpkgs) lib;
        evaluate =
          modules:
          nixpkgs.lib.nixosSystem {
            modules = [
              self.nixosModules.default
              {
                nixpkgs.hostPlatform = system;
                system.stateVersion = "26.05";
              }
            ]
            ++ modules;
          };
      };
    in
    pkgs.runCommand "module" { failures = nixpkgs.lib.concatStringsSep "\n" failures; } ''
      [ -z "$failures" ] || { echo "$failures" >&2; exit 1; }
      touch $out
    '';

  vm = pkgs.testers.runNixOSTest (import ./vm.nix self);
}
