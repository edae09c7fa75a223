#!/usr/bin/env bash
# Builds the CPU image and tries it as it is meant to run: no root, no capabilities, a read-only file system. It must
# become healthy, score, refuse a caller without a key, and on SIGTERM finish what it accepted and exit with 0.
#
#   docker/smoke.sh [OPTIONS FOR THE BUILD]     for instance --build-arg BASE_IMAGE=...
#
# TOOL is docker, podman or buildah (the first that works here); buildah runs the image in a chroot and needs root.
# PORT is a free one. Container, volume and image are removed at the end; the builder's cache stays.
set -euo pipefail
cd "$(dirname "$0")/.."

PORT=${PORT:-18080}
NAME=critic-rm-smoke-$$
IMAGE=localhost/$NAME
KEY=smoke-$RANDOM$RANDOM
SETTINGS=(CRITICRM_HOST=127.0.0.1 CRITICRM_PORT="$PORT" CRITICRM_API_KEYS="$KEY" CRITICRM_DRAIN_TIMEOUT_S=300)
# The first start downloads the default's base: by the same indexes and proxies as the build.
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  if [ -n "${!name:-}" ]; then SETTINGS+=("$name=${!name}"); fi
done

if [ -z "${TOOL:-}" ]; then
  for TOOL in docker podman buildah; do
    if "$TOOL" info >/dev/null 2>&1; then break; fi
  done
fi
say() { echo "== $*"; }
fail() {
  echo "smoke: $*; the end of the server's log:" >&2
  logs | tail -30 >&2
  exit 1
}

# ---- what differs between the tools: start, logs, alive, stop_server, wait_for_exit, remove
case $TOOL in
docker | podman)
  build=("$TOOL" build)
  start() {
    "$TOOL" run --detach --name "$NAME" --network host --read-only --tmpfs /tmp --shm-size 1g --volume "$NAME:/cache" \
      --cap-drop ALL --security-opt no-new-privileges "${SETTINGS[@]/#/--env=}" "$IMAGE" >/dev/null
  }
  logs() { "$TOOL" logs "$NAME" 2>&1; }
  alive() { [ "$("$TOOL" inspect --format '{{.State.Running}}' "$NAME")" = true ]; }
  stop_server=("$TOOL" kill --signal TERM "$NAME")
  wait_for_exit() { code=$("$TOOL" wait "$NAME"); }
  remove() {
    "$TOOL" rm --force "$NAME"
    "$TOOL" volume rm "$NAME"
  }
  ;;
buildah)
  build=(buildah build --isolation chroot)
  work=$(mktemp -d)
  start() {
    local root environment
    root=$(buildah mount "$(buildah from --name "$NAME" --pull-never "$IMAGE")")
    mapfile -t environment < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$NAME" | grep .)
    install --directory --owner=10001 "$work/cache"
    # The mounts are in a namespace of their own, and end with the server.
    # shellcheck disable=SC2016 # expanded in there
    unshare --mount sh -euc '
      root=$1 cache=$2; shift 2
      mount --bind "$root" "$root"
      mount --rbind /sys "$root/sys"; mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"
      mount -t tmpfs tmpfs "$root/tmp"; mount --bind "$cache" "$root/cache"
      mount -o remount,bind,ro "$root"
      exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all \
        env --ignore-environment "$@" criticrm serve
    ' sh "$root" "$work/cache" "${environment[@]}" "${SETTINGS[@]}" >"$work/log" 2>&1 &
    server=$!
    stop_server=(kill -TERM "$server")
  }
  logs() { cat "$work/log"; }
  alive() { kill -0 "$server" 2>/dev/null; }
  wait_for_exit() { # not in a subshell: the server is a child of this one
    code=0
    wait "$server" || code=$?
  }
  remove() {
    kill -KILL "${server:-}"
    buildah rm "$NAME"
    rm -rf "$work"
  }
  ;;
*)
  echo "smoke: none of docker, podman and buildah works here (is the daemon running?)" >&2
  exit 2
  ;;
esac
clean_up() {
  remove >/dev/null 2>&1 || true
  "$TOOL" rmi "$IMAGE" >/dev/null 2>&1 || true
}
trap clean_up EXIT
if [ "$TOOL" != docker ]; then build+=(--layers --format docker); fi # the OCI format has no HEALTHCHECK

say "building the CPU image with $TOOL"
"${build[@]}" --file docker/Dockerfile --target cpu --tag "$IMAGE" "$@" .

say "starting it: user 10001, read-only file system, no capabilities"
start
began=$SECONDS
until python3 docker/smoke_client.py ready "http://127.0.0.1:$PORT"; do
  alive || fail "the server exited"
  [ $((SECONDS - began)) -lt 900 ] || fail "not ready within 15 minutes"
  sleep 2
done
say "ready after $((SECONDS - began)) s"
case $TOOL in
podman) podman healthcheck run "$NAME" && say "HEALTHCHECK: healthy" ;;
docker) until [ "$(docker inspect --format '{{.State.Health.Status}}' "$NAME")" = healthy ]; do sleep 1; done ;;
esac

say "scoring"
python3 docker/smoke_client.py score "http://127.0.0.1:$PORT" "$KEY" || fail "scoring failed"

say "SIGTERM while a request is in work"
python3 docker/smoke_client.py drain "http://127.0.0.1:$PORT" "$KEY" "${stop_server[@]}" || fail "the drain failed"
wait_for_exit
[ "$code" = 0 ] || fail "the server exited with $code"
say "exited with 0"
say "the image works"
