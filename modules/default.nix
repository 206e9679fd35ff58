# The NixOS module: services.ci-docker-prune.
{
  imports = [
    ./options.nix
    ./service.nix
  ];
}
