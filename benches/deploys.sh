# What benches/run measures beside deploys: one row a kind of prune. Arguments: engine, the folder of the
# built program, how many deploys.
set -euo pipefail
engine=$1 program=$2/ci-docker-prune deploys=$3
beside() { target/debug/bench deploys --engine "$engine" --deploys "$deploys" -- "$1"; }
row() { # NAME COMMAND
  beside "$2" | awk -v engine="$engine" -v name="$1" '{
    printf "| %s | %s | %d | %d | **%d** | %d | %d |\n", engine, name, $1, $2, $3, $4, $5 }'
}
row 'nothing' 'sleep 1'
row '`docker image prune`, dangling' '$LAB_ENTER docker image prune --force'
row '`ci-docker-prune prune`, wanting every image' "STATE_DIRECTORY=\$LAB/state RUNTIME_DIRECTORY=\$LAB/runtime \
  $program prune --older-than 0s --disk-threshold 1 --disk-target 0"
