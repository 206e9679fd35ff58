# What the flake's input `nixpkgs` has, as far as the flake uses it. See README.md.
let
  bare = import ./lib.nix;
  lib = bare // {
    inherit (builtins) listToAttrs;
    nixosSystem = import ./nixos.nix lib (pkgs "x86_64-linux");
  };

  derivation =
    pname: more:
    {
      type = "derivation";
      inherit pname;
      outPath = "/nix/store/00000000000000000000000000000000-${pname}";
    }
    // more;

  pkgs =
    system:
    let
      self = {
        inherit lib;
        stdenv = {
          buildPlatform.canExecute = _: true;
          hostPlatform = { inherit system; };
        };
        callPackage =
          file: more:
          let
            function = import file;
            wanted = builtins.functionArgs function;
          in
          function (builtins.intersectAttrs wanted self // more);
        rustPlatform.buildRustPackage =
          it:
          derivation it.pname (
            it
            // {
              overrideAttrs = change: derivation it.pname (it // change it);
            }
          );
        # As the real one it keeps no postBuild: that becomes a part of buildCommand.
        symlinkJoin = it: derivation it.name { buildCommand = it.postBuild or ""; };
        runCommand =
          name: it: script:
          derivation name (it // { inherit script; });
        mkShell = derivation "shell";
        dockerTools.buildImage = it: derivation it.name it;
        buildEnv = it: derivation it.name it;
        testers.runNixOSTest = test: derivation "vm-test" { inherit test; };
      }
      // lib.genAttrs [
        "cargo"
        "busybox"
        "clippy"
        "deadnix"
        "installShellFiles"
        "makeBinaryWrapper"
        "nixfmt"
        "nixfmt-tree"
        "rustfmt"
        "versionCheckHook"
      ] (name: derivation name { });
    in
    self;
in
{
  inherit lib;
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgs;
}
