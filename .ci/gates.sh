#!/usr/bin/env bash
# Refuses code that unpickles, evaluates or shells out to what a stranger wrote, and family names outside finetune/models/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=0

# refuse PATTERN REASON: reads zero-separated file names, prints every line that matches. The pattern is an extended
# regular expression, matched without regard to case.
refuse() {
    local hits
    hits=$(xargs -0 grep -inHE -e "$1" /dev/null || true)
    if [ -n "$hits" ]; then
        printf '%s\n  refused: %s\n' "$hits" "$2" >&2
        failed=1
    fi
}

python_files() { find . -name '.?*' -prune -o -path ./build -prune -o -type f -name '*.py' -print0; }
# Tests may unpickle what they pickled themselves.
product_files() { find . -name '.?*' -prune -o -path ./build -prune -o -path ./tests -prune -o -type f -name '*.py' -print0; }
shared_files() { find finetune -path finetune/models -prune -o -type f -name '*.py' -print0; }

refuse 'weights_only *= *False' 'unpickling runs code from the file; read safetensors, or weights_only=True' < <(python_files)
refuse 'trust_remote_code *= *True' 'runs code from a downloaded model' < <(python_files)
refuse 'shell *= *True' 'pass a list of arguments instead of a shell line' < <(python_files)
refuse 'yaml\.(unsafe_|full_)?load(_all)? *\(' 'use yaml.safe_load' < <(python_files)
refuse '(pickle|dill|joblib)\.loads? *\(|\.Unpickler *\(' 'unpickling runs code from the file' < <(product_files)
# The name stands alone and has an argument: not model.eval(), not "its own eval()" in a sentence.
refuse '(^|[^[:alnum:]_.])(eval|exec) *\(([^)]|$)' 'never evaluate text' < <(python_files)

# Family names: what a family needs beyond the interface becomes part of the interface (docs/add_a_family.md). Refused are
# the registered names as a text or a module ("sd", models.sd:), and the models' own names wherever they stand (SDXL,
# sd15, SD 2.1, StableDiffusionXLPipeline, FluxTransformer2DModel). sd-scripts, sd-finetune and ss_sd_... are other words.
families=$(grep -oE '"[a-z0-9_]+": *"finetune\.models\.' finetune/models/__init__.py | cut -d'"' -f2 | paste -sd'|')
refuse "[\"'.]($families)([\"':.]|\$| import)" 'no registered family outside finetune/models/' < <(shared_files)
refuse '(^|[^a-z])(stable[ _-]?diffusion|sd[ _.-]?(xl|[0-9])|flux)' 'no family name outside finetune/models/' < <(shared_files)

exit "$failed"
