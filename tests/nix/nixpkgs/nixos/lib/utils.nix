# What the module uses of NixOS' helpers.
{ lib, ... }:
{
  escapeSystemdExecArgs = lib.concatMapStringsSep " " (
    it: builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString it))
  );
}
