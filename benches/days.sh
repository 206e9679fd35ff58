# What benches/run does at each event of its days, inside the lab: POLICY PROGRAM-FOLDER live|ended|midnight.
set -u
export STATE_DIRECTORY=$LAB/state RUNTIME_DIRECTORY=$LAB/runtime
policy=$1 program=$2/ci-docker-prune event=$3
docker() { $LAB_ENTER docker "$@"; }
case $policy-$event in
  ours-midnight) "$program" prune ;;
  # The record timer fires every five minutes: while a run is live, and after it.
  ours-*) "$program" record --prune-at 90 ;;
  # What this program replaced: three gates and docker's own prune.
  script-midnight)
    used=$(df --output=pcent "$LAB/data" | tail -n 1 | tr -dc 0-9)
    [ "$used" -ge 80 ] || exit 0
    docker container prune --force --filter until=24h
    docker image prune --force --filter until=24h
    docker builder prune --force --filter until=24h
    ;;
  all-midnight) docker system prune --all --force ;;
esac
