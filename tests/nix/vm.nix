# The scenarios of tests/host.rs on a whole NixOS in a virtual machine. It takes a machine with KVM and a
# binary cache: nix build .#checks.x86_64-linux.vm
self:
{ pkgs, ... }:
let
  image =
    name:
    pkgs.dockerTools.buildImage {
      inherit name;
      tag = "1";
      # As images of reproducible builds do, it carries a date that says nothing.
      created = "1970-01-01T00:00:01Z";
      copyToRoot = pkgs.buildEnv {
        name = "root";
        paths = [ pkgs.busybox ];
      };
      config.Cmd = [
        "sleep"
        "infinity"
      ];
    };
in
{
  name = "ci-docker-prune";

  nodes.machine =
    { config, ... }:
    {
      imports = [ self.nixosModules.default ];

      virtualisation = {
        memorySize = 2048;
        emptyDiskImages = [ 1024 ];
        fileSystems."/var/lib/docker" = {
          device = "/dev/vdb";
          fsType = "ext4";
          autoFormat = true;
        };
        docker = {
          enable = true;
          # A Swarm cannot have it.
          liveRestore = false;
        };
      };
      services.dockerRegistry.enable = true;

      services.ci-docker-prune = {
        enable = true;
        randomizedDelaySec = "0";
        settings = {
          older-than = "0s";
          metrics-file = "/var/lib/metrics/ci-docker-prune.prom";
        };
      };
      systemd.services.ci-docker-prune.onFailure = [ "alarm.service" ];
      systemd.services.alarm = {
        serviceConfig.Type = "oneshot";
        script = "echo failed >> /tmp/alarms";
      };

      users.users.alice = {
        isNormalUser = true;
        extraGroups = [ "docker" ];
      };
      environment.variables.RUN = "abcd-0123ef_ci_commoninternet_net";
      assertions = [
        {
          assertion = config.services.ci-docker-prune.settings.disk-threshold == null;
          message = "the test fills the disk for the default threshold";
        }
      ];
    };

  testScript = ''
    RUN = "abcd-0123ef_ci_commoninternet_net"

    def fill(percent):
        machine.succeed(
            "rm -f /var/lib/docker/ballast; "
            "read used free < <(df --block-size=1 --output=used,avail /var/lib/docker | tail -n 1); "
            f"fallocate --length $(((used + free) * {percent} / 100 - used)) /var/lib/docker/ballast"
        )

    def journal(unit="ci-docker-prune"):
        machine.succeed("journalctl --sync")
        return machine.succeed(f"journalctl --unit {unit} --output cat --invocation 0")

    machine.wait_for_unit("docker.service")
    machine.wait_for_open_port(5000)

    with subtest("the timer is enabled and due at midnight"):
        machine.succeed("systemctl is-enabled ci-docker-prune.timer")
        timers = machine.succeed("systemctl list-timers ci-docker-prune.timer")
        assert "00:00:00" in timers, timers
        machine.fail("systemctl cat docker-prune.timer")

    with subtest("an idle disk keeps its cache"):
        machine.succeed("systemctl start ci-docker-prune")
        assert "keeping local image cache" in journal(), journal()

    machine.succeed(
        "docker swarm init --advertise-addr 127.0.0.1",
        "docker load < ${image "cached"}",
        "docker tag cached:1 127.0.0.1:5000/cached:1",
        "docker push 127.0.0.1:5000/cached:1",
        "docker image rm cached:1 127.0.0.1:5000/cached:1",
        "docker load < ${image "run"}",
        "docker service create --name warm 127.0.0.1:5000/cached:1",
        "docker service rm warm",
    )
    machine.wait_until_succeeds("test -z \"$(docker ps --all --quiet)\"")

    with subtest("the ledger is filled by the record timer's service"):
        machine.succeed("systemctl start ci-docker-prune-record", "test -s /var/lib/ci-docker-prune/ledger.json")

    with subtest("a live run holds it back"):
        fill(85)
        machine.succeed(f"docker run --detach --name {RUN} run:1", "systemctl start ci-docker-prune")
        assert "blocked by runs" in journal(), journal()
        machine.succeed(f"docker rm --force {RUN}")

    with subtest("a user of the docker group can inhibit"):
        machine.succeed("su alice -c 'ci-docker-prune inhibit -- sleep 60' >&2 &")
        machine.wait_until_succeeds("ls /run/ci-docker-prune/inhibitors/*")
        machine.succeed("systemctl start ci-docker-prune")
        assert "inhibited by process" in journal(), journal()
        machine.succeed("pkill -u alice")
        machine.wait_until_fails("ls /run/ci-docker-prune/inhibitors/*")

    with subtest("under pressure it prunes"):
        machine.succeed("systemctl start ci-docker-prune")
        assert "Removed:" in journal(), journal()
        assert "cached" not in machine.succeed("docker image ls --digests"), "the cached image is gone"
        machine.succeed("docker image inspect run:1")
        machine.succeed("grep ci_docker_prune_last_success_timestamp_seconds /var/lib/metrics/ci-docker-prune-ledger.prom")

    with subtest("a critical disk fails the unit"):
        fill(97)
        machine.fail("systemctl start ci-docker-prune")
        machine.wait_until_succeeds("grep failed /tmp/alarms")
        machine.succeed("rm /var/lib/docker/ballast")

    with subtest("a stopped engine stays stopped, and a failed one fails the unit"):
        # A unit of NixOS cannot be masked in /run, but a drop-in there holds.
        machine.succeed(
            "mkdir -p /run/systemd/system/docker.socket.d",
            "printf '[Unit]\\nConditionPathExists=/nonexistent\\n' > /run/systemd/system/docker.socket.d/off.conf",
            "systemctl daemon-reload",
            "systemctl stop docker.socket docker.service",
            "rm -f /tmp/alarms",
            "systemctl start ci-docker-prune",
            "! systemctl is-active docker.service",
            "mkdir -p /run/systemd/system/docker.service.d",
            "printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestart=no\\n' > /run/systemd/system/docker.service.d/fails.conf",
            "systemctl daemon-reload",
        )
        machine.fail("systemctl start docker.service && sleep 1 && systemctl is-active docker.service")
        machine.fail("systemctl start ci-docker-prune")
        machine.wait_until_succeeds("grep failed /tmp/alarms")
  '';
}
