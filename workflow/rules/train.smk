"""The training of one run and seed. Checkpoints lie in hidden folders beside the outputs, undeclared:
Snakemake deletes the declared outputs of a job that failed or was killed, and with them all progress.

A signal to stop is for the training alone: its shell (trap) and its log stay until it has saved. More than
one GPU is shared out by torchrun, which would take --run for an option of its own.
"""

PRETRAINED = [name for name in EXPERIMENT.run_names if EXPERIMENT.run(name).pretrain]
MASKED = [name for name in PRETRAINED if EXPERIMENT.run(name).masked]
CONTRASTIVE = [name for name in PRETRAINED if name not in MASKED]
EMBEDDERS = [
    f"{STAGE}/finetune/{embedder_file(part)}"
    for part in range(EXPERIMENT.split.rotations)
]


rule pretrain:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
    output:
        f"{STAGE}/pretrain/encoder.safetensors",
        f"{STAGE}/pretrain/decoder.safetensors",
        f"{STAGE}/pretrain/reconstructions.safetensors",
        f"{STAGE}/pretrain/log.jsonl",
        f"{STAGE}/pretrain/metrics.json",
        f"{STAGE}/pretrain/config.json",
    log:
        "logs/{run}/{seed}/pretrain.log",
    benchmark:
        "logs/{run}/{seed}/pretrain.benchmark.tsv"
    wildcard_constraints:
        run="|".join(MASKED) or "none",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=training_memory("pretrain"),
        runtime=1440,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        section=section("model", "pretrain"),
        compute=[EXPERIMENT.device, EXPERIMENT.precision],
        workers=readers,
    shell:
        """
        trap '' TERM USR1
        $([ {resources.gpu} -gt 1 ] && echo torchrun --standalone --nproc-per-node {resources.gpu} || echo python) \
            -m facemae pretrain \
            --config {params.config:q} \
            --name {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            --out {params.out:q} \
            --threads {threads} \
            --workers {params.workers} >{log:q} 2>&1
        """


# A contrastive method has no decoder, and completes no face.
use rule pretrain as pretrain_contrastive with:
    output:
        f"{STAGE}/pretrain/encoder.safetensors",
        f"{STAGE}/pretrain/log.jsonl",
        f"{STAGE}/pretrain/metrics.json",
        f"{STAGE}/pretrain/config.json",
    wildcard_constraints:
        run="|".join(CONTRASTIVE) or "none",


rule finetune:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
        pretrained=pretrained,
    output:
        EMBEDDERS,
        f"{STAGE}/finetune/embeddings.parquet",
        f"{STAGE}/finetune/probe.parquet",
        f"{STAGE}/finetune/log.jsonl",
        f"{STAGE}/finetune/metrics.json",
        f"{STAGE}/finetune/config.json",
    log:
        "logs/{run}/{seed}/finetune.log",
    benchmark:
        "logs/{run}/{seed}/finetune.benchmark.tsv"
    conda:
        "../envs/facemae.yaml"
    # A teacher's faces are as many as pretraining's, so their training gets as long as that without all cores.
    threads: lambda wildcards: 8 if EXPERIMENT.run(wildcards.run).finetune.teacher else 1
    resources:
        gpu=gpus,
        mem_mb=training_memory("finetune"),
        runtime=1440,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        rotations=EXPERIMENT.split.rotations,
        pretrained=pretrained_option,
        section=section("model", "finetune"),
        compute=[EXPERIMENT.device, EXPERIMENT.precision],
        workers=readers,
    shell:
        """
        trap '' TERM USR1
        python -m facemae finetune \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            {params.pretrained:q} \
            --out {params.out:q} \
            --threads {threads} \
            --workers {params.workers} >{log:q} 2>&1
        """
