# Inside the engine's own namespaces: make them look like a small machine, then keep dockerd running.
# Arguments: the root to run in, the lab's folder, then dockerd's own arguments.
set -e
root=$1 lab=$2
shift 2
mount --make-rprivate /
if [ "$root" = / ]; then
  # The host's own tree: only what would meet the host's engine is replaced.
  for place in /run /etc/docker; do [ -d $place ] && mount -t tmpfs tmpfs $place; done
  mount -t proc proc /proc
else
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
  mount --rbind /dev "$root/dev"
  for place in run tmp etc/docker; do mount -t tmpfs tmpfs "$root/$place"; done
  mkdir -p "$root$lab" "$root/tmp/host"
  mount --rbind "$lab" "$root$lab"
  cd "$root"
  pivot_root . tmp/host
  umount -l /tmp/host
fi
hostname lab
ip link set lo up
registry=$(command -v docker-registry || command -v registry)
"$registry" serve "$lab/registry.yml" > "$lab/registry.log" 2>&1 &
daemon() { # NAME ARGUMENTS...: started again whenever it ends, until the lab says otherwise
  name=$1; shift
  while [ ! -e "$lab/$name.stop" ]; do
    dockerd --data-root "$lab/$name" --exec-root "/run/$name" --pidfile "$lab/$name.pid" \
      -H "unix://$lab/$name.sock" "$@" >> "$lab/$name.log" 2>&1 || true
    sleep 0.05
  done
}
# Workers are other machines: each in a network namespace of its own, all on one bridge.
if [ "${LAB_WORKERS:-0}" -gt 0 ]; then
  set -- "$@" --insecure-registry 10.77.0.0/24
  ip link add swarm type bridge
  ip address add 10.77.0.1/24 dev swarm
  ip link set swarm up
  n=0
  while [ $n -lt "$LAB_WORKERS" ]; do
    n=$((n + 1))
    ip netns add worker$n
    ip link add to-worker$n type veth peer name eth0 netns worker$n
    ip link set to-worker$n master swarm up
    ip -n worker$n link set lo up
    ip -n worker$n address add 10.77.0.$((n + 1))/24 dev eth0
    ip -n worker$n link set eth0 up
    ip -n worker$n route add default via 10.77.0.1
    mkdir -p "$lab/worker$n"
    # `ip netns exec` would hide the control groups.
    nsenter --net=/run/netns/worker$n dockerd --data-root "$lab/worker$n" --exec-root "/run/worker$n" \
      --pidfile "$lab/worker$n.pid" -H "unix://$lab/worker$n.sock" "$@" \
      --cgroup-parent "$LAB_CGROUP" > "$lab/worker$n.log" 2>&1 &
  done
fi
if [ -e "$lab/certificates/server.pem" ]; then
  set -- "$@" -H tcp://0.0.0.0:2376 --tlsverify --tlscacert "$lab/certificates/ca.pem" \
    --tlscert "$lab/certificates/server.pem" --tlskey "$lab/certificates/server-key.pem"
fi
daemon data "$@" --cgroup-parent "$LAB_CGROUP"
wait
