# Where NixOS's Docker listens, and where the program looks by itself.
{ lib, docker }:
{
  sockets = lib.filter (lib.hasPrefix "/") (docker.listenOptions or [ ]);
  usual = [
    "/run/docker.sock"
    "/var/run/docker.sock"
  ];
}
