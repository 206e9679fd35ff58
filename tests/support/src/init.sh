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
[ -n "$LAB_SECOND" ] && daemon second --bridge=none --iptables=false --cgroup-parent "$LAB_CGROUP" &
daemon data "$@" --cgroup-parent "$LAB_CGROUP"
wait
