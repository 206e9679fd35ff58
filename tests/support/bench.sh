# What tests/bench measures, inside the lab. Argument: the folder of the built program.
set -euo pipefail
docker() { $LAB_ENTER docker "$@"; }
cp "$1/ci-docker-prune" tests/support/gates.sh "$LAB/"
printf 'version: "3.8"\nservices:\n' > "$LAB/stack.yml"
for n in $(seq 10); do printf '  s%s:\n    image: redis:7-alpine\n' "$n" >> "$LAB/stack.yml"; done
docker stack deploy --compose-file - web < "$LAB/stack.yml" > /dev/null
until [ "$(docker service ls --format '{{.Replicas}}' | grep -c 1/1)" = 10 ]; do sleep 0.1; done

# Both run inside the engine's root, entered the same way; each starts 30 times after 3 to warm up.
measure() { target/debug/lab --measure 30 -- $LAB_ENTER env STATE_DIRECTORY="$LAB/state" "$@"; }
ours=$(measure "$LAB/ci-docker-prune" check-gates)
script=$(measure sh "$LAB/gates.sh")
row() { # NAME, then wall CPU (ms) and peak memory (KiB)
  awk -v name="$1" -v all="$2" 'BEGIN { split(all, n, " ")
    printf "| %s | %.1f ms | %.1f ms | %.1f MiB |\n", name, n[1], n[2], n[3] / 1024 }'
}
cat <<TABLE
| 10 services, engine $(docker version --format '{{.Server.Version}}') | wall | CPU | peak memory |
|---|---|---|---|
$(row '`ci-docker-prune check-gates`' "$ours")
$(row 'the same gates by `docker` in a shell script' "$script")
$(awk -v a="$ours" -v b="$script" 'BEGIN { split(a, n, " "); split(b, m, " ")
  printf "| **ratio** | %.1f × | %.1f × | %.1f × |\n", m[1] / n[1], m[2] / n[2], m[3] / n[3] }')
TABLE
