# The package, for those without flakes: nix-build. The module is ./modules.
{
  pkgs ? import <nixpkgs> { },
}:
pkgs.callPackage ./modules/package.nix { }
