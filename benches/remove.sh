# What benches/run measures of a removal, inside the lab, which has so many dangling images: seconds, and how many went.
# Arguments: the folder of the built program, `ours` or `theirs`.
set -euo pipefail
docker() { $LAB_ENTER docker "$@"; }
cp "$1/ci-docker-prune" "$LAB/"
read -r used available < <(df --block-size=1 --output=used,avail "$LAB/data" | tail -n 1)
fallocate --length $(((used + available) * 85 / 100 - used)) "$LAB/data/ballast"
before=$(docker image ls --quiet | wc -l)
start=$(date +%s.%N)
case $2 in
  ours) $LAB_ENTER env STATE_DIRECTORY="$LAB/state" RUNTIME_DIRECTORY="$LAB/run" "$LAB/ci-docker-prune" prune --older-than 0s >"$LAB/out" ;;
  theirs) docker image prune --force --filter until=1s >"$LAB/out" ;;
esac
end=$(date +%s.%N)
after=$(docker image ls --quiet | wc -l)
awk -v s="$start" -v e="$end" -v n=$((before - after)) 'BEGIN { printf "%.2f %d\n", e - s, n }'
