# The options of NixOS that the module reads or sets, and no more: to evaluate it 75 times without 75 hosts.
{ lib, ... }:
let
  option =
    type: default:
    lib.mkOption {
      inherit type default;
    };
  enable = option lib.types.bool false;
  set = option (lib.types.attrsOf lib.types.anything) { };
in
{
  options = {
    assertions = option (lib.types.listOf lib.types.unspecified) [ ];
    warnings = option (lib.types.listOf lib.types.str) [ ];
    environment.systemPackages = option (lib.types.listOf lib.types.package) [ ];
    environment.etc = option (lib.types.attrsOf (lib.types.attrsOf lib.types.unspecified)) { };
    users.users = set;
    users.groups = set;
    systemd.services = set;
    systemd.timers = set;
    systemd.paths = set;
    systemd.tmpfiles.rules = option (lib.types.listOf lib.types.str) [ ];
    systemd.tmpfiles.settings = option (lib.types.attrsOf lib.types.unspecified) { };
    virtualisation.docker = {
      inherit enable;
      listenOptions = option (lib.types.listOf lib.types.str) [ "/run/docker.sock" ];
      autoPrune.enable = enable;
      rootless.enable = enable;
    };
    virtualisation.podman = {
      inherit enable;
      autoPrune.enable = enable;
      dockerSocket.enable = enable;
    };
    services.docuum.enable = enable;
    services.gitlab-runner.clear-docker-cache.enable = enable;
  };
}
