{
  description = "Prunes a Docker Swarm CI host without losing its image cache";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = of: lib.genAttrs systems (system: of nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./modules/package.nix { inherit revision; };
      # What git describes is what `ci-docker-prune --version` says.
      revision = self.shortRev or self.dirtyShortRev or null;
    in
    {
      packages = eachSystem (pkgs: rec {
        ci-docker-prune = package pkgs;
        default = ci-docker-prune;
      });

      overlays.default = final: _prev: { ci-docker-prune = package final; };

      nixosModules = rec {
        default = ci-docker-prune;
        ci-docker-prune =
          { lib, pkgs, ... }:
          {
            # So that it may be imported twice, by a host and by a profile that it shares.
            key = "ci-docker-prune";
            _file = ./flake.nix;
            imports = [ ./modules ];
            # The host's overlays and platform hold; the flake adds the revision.
            services.ci-docker-prune.package = lib.mkDefault (pkgs.ci-docker-prune or (package pkgs));
          };
      };

      checks = eachSystem (
        pkgs:
        import ./tests/nix/checks.nix {
          inherit self nixpkgs pkgs;
        }
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = [
            pkgs.clippy
            pkgs.deadnix
            pkgs.nixfmt
            pkgs.rustfmt
          ];
        };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
