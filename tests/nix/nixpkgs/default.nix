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
        rustc.version = "1.91.1";
        nix-update-script = _: [ "nix-update" ];
        rustPlatform.buildRustPackage =
          argument:
          let
            it = if builtins.isFunction argument then argument it else argument;
          in
          derivation it.pname (
            it
            // {
              overrideAttrs = change: derivation it.pname (it // change it);
            }
          );
        formats.toml = _: {
          type = lib.types.anything;
          # Strings, numbers and lists are written alike in JSON and TOML.
          generate =
            name: value:
            derivation name {
              text = lib.concatStringsSep "" (
                lib.mapAttrsToList (key: it: "${key} = ${builtins.toJSON it}\n") value
              );
            };
        };
        buildPackages = { inherit (self) systemd; };
        # Where a Debian has it: the units run on one.
        systemd = derivation "systemd" { outPath = "/usr"; };
        tzdata = derivation "tzdata" { outPath = "/usr"; };
        runtimeShell = "/bin/sh";
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
  outPath = toString ./.;
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgs;
}
