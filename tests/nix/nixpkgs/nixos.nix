# The options of NixOS that the module touches, and units rendered as NixOS writes them.
lib: pkgs:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    isBool
    isList
    map
    ;
  inherit (lib) mkOption types;

  option =
    type: default:
    mkOption {
      inherit type default;
    };

  unitKeys = [
    "after"
    "before"
    "bindsTo"
    "conflicts"
    "description"
    "documentation"
    "enable"
    "onFailure"
    "partOf"
    "requires"
    "unitConfig"
    "wantedBy"
    "wants"
  ];
  serviceKeys = unitKeys ++ [
    "environment"
    "path"
    "reloadIfChanged"
    "restartIfChanged"
    "restartTriggers"
    "serviceConfig"
    "stopIfChanged"
  ];

  value = it: if isBool it then (if it then "true" else "false") else toString it;
  line =
    name: it:
    if isList it then
      concatStringsSep "" (map (one: "${name}=${value one}\n") it)
    else
      "${name}=${value it}\n";
  section =
    name: set: "[${name}]\n" + concatStringsSep "" (map (key: line key set.${key}) (attrNames set));
  # Lists of units are one line.
  words = list: concatStringsSep " " list;
  unit =
    it:
    section "Unit" (
      lib.optionalAttrs (it.after or [ ] != [ ]) { After = words it.after; }
      // lib.optionalAttrs (it ? description) { Description = it.description; }
      // lib.optionalAttrs (it ? documentation) { Documentation = words it.documentation; }
      // lib.optionalAttrs (it.onFailure or [ ] != [ ]) { OnFailure = words it.onFailure; }
      // lib.optionalAttrs (it.wants or [ ] != [ ]) { Wants = words it.wants; }
      // it.unitConfig or { }
    );
  changes =
    it: lib.optionalString (it.restartIfChanged or true == false) "X-RestartIfChanged=false\n";
  install =
    it: lib.optionalString (it.wantedBy or [ ] != [ ]) "\n[Install]\nWantedBy=${words it.wantedBy}\n";
  render = {
    service =
      it:
      "${unit it}\n[Service]\n${changes it}${
        lib.concatMapStringsSep "" (key: line key it.serviceConfig.${key}) (attrNames it.serviceConfig)
      }${install it}";
    path = it: "${unit it}\n${section "Path" (it.pathConfig or { })}${install it}";
    timer = it: "${unit it}\n${section "Timer" (it.timerConfig or { })}${install it}";
  };

  module =
    { config, ... }:
    {
      options = {
        assertions = option (types.listOf types.raw) [ ];
        warnings = option (types.listOf types.str) [ ];
        environment.systemPackages = option (types.listOf types.package) [ ];
        environment.etc = option (types.attrsOf (types.keys [ "source" ])) { };
        users.users = option (types.attrsOf (
          types.keys [
            "description"
            "extraGroups"
            "group"
            "isSystemUser"
          ]
        )) { };
        users.groups = option (types.attrsOf (
          types.keys [
            "gid"
            "members"
          ]
        )) { };
        virtualisation.docker.enable = option types.bool false;
        virtualisation.docker.enableOnBoot = option types.bool true;
        virtualisation.docker.listenOptions = option (types.listOf types.str) [ "/run/docker.sock" ];
        virtualisation.docker.rootless.enable = option types.bool false;
        virtualisation.podman.enable = option types.bool false;
        virtualisation.podman.autoPrune.enable = option types.bool false;
        virtualisation.podman.dockerSocket.enable = option types.bool false;
        services.docuum.enable = option types.bool false;
        services.gitlab-runner.clear-docker-cache.enable = option types.bool false;
        virtualisation.docker.autoPrune.enable = option types.bool false;
        virtualisation.docker.autoPrune.dates = option types.str "weekly";
        virtualisation.docker.autoPrune.flags = option (types.listOf types.str) [ ];
        nixpkgs.hostPlatform = option types.str "x86_64-linux";
        system.stateVersion = option types.str "26.05";
        systemd.services = option (types.attrsOf (types.keys serviceKeys)) { };
        systemd.timers = option (types.attrsOf (types.keys (unitKeys ++ [ "timerConfig" ]))) { };
        systemd.paths = option (types.attrsOf (types.keys (unitKeys ++ [ "pathConfig" ]))) { };
        systemd.tmpfiles.rules = option (types.listOf types.str) [ ];
        systemd.tmpfiles.settings = option (types.attrsOf types.raw) { };
        systemd.units = option (types.attrsOf types.raw) { };
      };
      config.systemd.units = lib.listToAttrs (
        lib.mapAttrsToList (name: it: {
          name = "${name}.service";
          value.text = render.service it;
        }) config.systemd.services
        ++ lib.mapAttrsToList (name: it: {
          name = "${name}.timer";
          value.text = render.timer it;
        }) config.systemd.timers
        ++ lib.mapAttrsToList (name: it: {
          name = "${name}.path";
          value.text = render.path it;
        }) config.systemd.paths
      );
    };
in
{ modules, ... }:
{
  inherit render;
}
// lib.evalModules {
  modules = [ module ] ++ modules;
  specialArgs = {
    inherit pkgs;
    utils = import ./nixos/lib/utils.nix { inherit lib; };
  };
}
