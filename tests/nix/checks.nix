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

  # The same cases as tests/nix/run, against the real nixpkgs; the VM is a whole NixOS.
  module =
    let
      inherit (nixpkgs) lib;
      failures = import ./cases.nix {
        inherit lib;
        evaluate =
          modules:
          lib.evalModules {
            modules = [
              self.nixosModules.default
              ./host.nix
            ]
            ++ modules;
            specialArgs = {
              inherit pkgs;
              utils = import "${nixpkgs}/nixos/lib/utils.nix" {
                inherit lib pkgs;
                config = { };
              };
            };
          };
      };
    in
    pkgs.runCommand "module" { failures = nixpkgs.lib.concatStringsSep "\n" failures; } ''
      [ -z "$failures" ] || { echo "$failures" >&2; exit 1; }
      touch $out
    '';

  vm = pkgs.testers.runNixOSTest (import ./vm.nix self);
}
