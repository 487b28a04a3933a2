#!/usr/bin/env bash
# What a GPU must show, by one command that ends within nine minutes, also on a machine without internet:
#
#   python benchmarks/shard.py FOLDER_OF_PHOTOS shard/photos.tar      # before, where the photos are
#   bash benchmarks/gpu.sh                                            # --device cpu: a dry run at tiny sizes
#
# 1. the tests that need a GPU; 2. a training step at 64 and 224 px, eager and compiled: images/s and the share of the
# bf16 matmul ceiling; 3. the same in runs on the photos, views made in workers and on the device: images/s and the
# share of the time in which a step waits; 4. in the time that is left, four minutes at most: the whole ReActNet-A,
# trained under the released teacher, or under shard/teacher.safetensors where it lies (timm's tf_efficientnet_lite0).
# $OUT (default: output/gpu) then holds gpu.log, step_PX.json, data_wait.jsonl, log.jsonl, summary.json and export.tar.
# A part that fails does not stop the others; it makes the exit code 1. $PYTHON is the Python to use, $SHARD the tar.
set -uo pipefail
cd "$(dirname "$0")/.."
case "$*" in
  "") device=cuda model=reactnet_a sizes="64:512 224:128" how="eager compiled" steps=45 training=240 patience=1
      timing="--rounds 3 --runs 10" rate=0.6 warmup=0.2 workers=${WORKERS:-8} ;;
  "--device cpu") device=cpu model=test_reactnet sizes="32:2" how="eager" steps=3 training=5 patience=20
      timing="--rounds 1 --runs 1 --ceiling-size 64" rate=0.01 warmup=0 workers=0; export ACCELERATE_USE_CPU=true ;;
  *) echo "gpu.sh: expected nothing or --device cpu, not $*" >&2; exit 2 ;;
esac
limit=$((540 * patience)) out=${OUT:-output/gpu} shard=${SHARD:-shard/photos.tar} python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
[ -f "$shard" ] || { echo "gpu.sh: $shard is missing; make it with benchmarks/shard.py" >&2; exit 2; }
"$python" -c "import torch, train_burn; assert '$device' == 'cpu' or torch.cuda.is_available(), 'no CUDA device'" ||
  { echo "gpu.sh: $python lacks a package or a GPU (above); \$PYTHON names another Python" >&2; exit 2; }
mkdir -p "$out"
rm -f "$out"/{gpu.log,step_*.json,data_wait.jsonl,log.jsonl,summary.json,export.tar}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec > >(tee "$out/gpu.log") 2>&1
tar xf "$shard" -C "$work"
"$python" -c "
import platform, timm, torch
print('Python', platform.python_version(), 'torch', torch.__version__, 'timm', timm.__version__)
print(torch.cuda.get_device_name() if '$device' == 'cuda' else 'cpu: a dry run')"

failed=()
part() {  # part NAME SECONDS COMMAND...
  echo "== $1 (at $SECONDS s)"
  timeout $(($2 * patience)) "${@:3}" < /dev/null || failed+=("$1: exit code $?")
}

part "tests" 90 "$python" -m pytest -q -o addopts= --import-mode=importlib -m gpu $(grep -rl "mark.gpu" tests --include="*.py")
for size in $sizes; do  # side in pixels and images of a batch
  px=${size%:*} batch=${size#*:}
  rows=$(for each in $how; do echo "$each-bf16-cl"; done)
  part "step at $px px" 110 "$python" benchmarks/train_step.py --device $device --model $model --img-size "$px" \
    --batch-size "$batch" --no-memory $timing --output "$out/step_$px.json" --rows $rows
done
export ACCELERATE_MIXED_PRECISION=bf16
teacher="--teacher local-dir:results/teacher_tiny_imagenet_80_48"
[ -f shard/teacher.safetensors ] && teacher="--teacher tf_efficientnet_lite0 --teacher-checkpoint shard/teacher.safetensors"
run="--recipe tiny_imagenet_80_distill --model $model --dataset folder --data-dir $work/photos --workers $workers $teacher"
part "waiting for images" 150 "$python" benchmarks/data_wait.py --sizes $sizes --how $how --steps $steps \
  --output "$out/data_wait.jsonl" -- $run --warmup-epochs 0
px=${sizes%%:*} batch=${sizes#*:} batch=${batch%% *}
seconds=$((limit - SECONDS - 60))  # of compiling, exporting and packing
seconds=$((seconds < training ? seconds : training))
steps=$("$python" - "$out/data_wait.jsonl" <<< "
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
best = max(row['images_per_s'] for row in rows if row['img_size'] == min(row['img_size'] for row in rows))
print(max(1, int($rate * best * $seconds / 2 / $batch)))") || steps=0
if [ "$steps" -gt 0 ] && [ "$seconds" -gt 0 ]; then
  part "training, $steps steps a stage" $(((limit - SECONDS) / patience)) "$python" train_burn.py $run \
    --warmup-epochs $warmup --batch-size "$batch" --img-size "$px" --views-on device --epochs 999999 --max-steps "$steps" --log-interval 1 \
    $([ $device = cpu ] && echo --no-compile) --val-split none --log-with none --output "$work/run"
  cp "$work/run/log.jsonl" "$work/run/summary.json" "$out" && tar cf "$out/export.tar" -C "$work/run" export ||
    failed+=("no export")
else
  failed+=("training: no time left, or no rate was measured")
fi
echo "== $SECONDS s"
printf 'FAILED %s\n' "${failed[@]+"${failed[@]}"}" | grep -v '^FAILED $'
[ ${#failed[@]} -eq 0 ]
