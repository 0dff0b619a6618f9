"""From a trained run, or a control, to the verdict and the report's page."""

# Whom the resamples draw: another seed changes no file that the rules below read.
RESAMPLED = verbatim(
    EXPERIMENT.split.model_dump_json(include={"pairs", "rotations", "seed"})
)
INTERVALS = verbatim(
    EXPERIMENT.evaluate.model_dump_json(include={"resamples", "level"})
)


# One process for all of them, since each takes longer to start than to embed or to evaluate.
rule baselines:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
    output:
        of_stage("embed", "embeddings.parquet", EXPERIMENT.baselines),
        of_stage("embed", "metrics.json", EXPERIMENT.baselines),
        of_stage("embed", "config.json", EXPERIMENT.baselines),
    log:
        "logs/baselines.log",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory(PYTORCH_MB),
        runtime=240,
    params:
        config=RESULTS.config,
        results=RESULTS.root,
        model=verbatim(EXPERIMENT.defaults.model.model_dump_json()),
        labels=verbatim(EXPERIMENT.defaults.finetune.labels.model_dump_json()),
    shell:
        """
        python -m facemae baselines \
            --config {params.config:q} \
            --results {params.results:q} \
            --threads {threads} >{log:q} 2>&1
        """


rule evaluate:
    input:
        split=RESULTS.data.split,
        pairs=RESULTS.data.pairs,
        photos=RESULTS.data.photos,
        faces=RESULTS.data.faces,
        embeddings=embedded("embeddings.parquet"),
        metrics=embedded("metrics.json"),
    output:
        evaluated("metrics.json"),
        evaluated("scores.parquet"),
        evaluated("resamples.parquet"),
        evaluated("influence.parquet"),
        evaluated("config.json"),
    log:
        "logs/evaluate.log",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory(3000),
        runtime=720,
    params:
        config=RESULTS.config,
        results=RESULTS.root,
        evaluate=verbatim(
            EXPERIMENT.evaluate.model_dump_json(
                include={"far_targets", "resamples", "level"}
            )
        ),
        resamples=RESAMPLED,
    shell:
        """
        python -m facemae evaluate-runs \
            --config {params.config:q} \
            --results {params.results:q} >{log:q} 2>&1
        """


rule robustness:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
        pairs=RESULTS.data.pairs,
        embedders=finetuned,
    output:
        f"{STAGE}/robustness/metrics.json",
        f"{STAGE}/robustness/resamples.parquet",
        f"{STAGE}/robustness/influence.parquet",
        f"{STAGE}/robustness/config.json",
    log:
        "logs/{run}/{seed}/robustness.log",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=memory(PYTORCH_MB),
        runtime=240,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        finetuned=finetuned_option,
        model=verbatim(EXPERIMENT.defaults.model.model_dump_json()),
        labels=verbatim(EXPERIMENT.defaults.finetune.labels.model_dump_json()),
        settings=verbatim(EXPERIMENT.robustness.model_dump_json(exclude={"runs"})),
        evaluate=INTERVALS,
        resamples=RESAMPLED,
    shell:
        """
        python -m facemae robustness \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            {params.finetuned:q} \
            --out {params.out:q} \
            --threads {threads} >{log:q} 2>&1
        """


rule attributes:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
        pretrained=pretrained,
    output:
        f"{STAGE}/attributes/metrics.json",
        f"{STAGE}/attributes/resamples.parquet",
        f"{STAGE}/attributes/influence.parquet",
        f"{STAGE}/attributes/predictions.parquet",
        f"{STAGE}/attributes/config.json",
    log:
        "logs/{run}/{seed}/attributes.log",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=training_memory("finetune"),
        runtime=240,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        pretrained=pretrained_option,
        probe="all tokens",  # what was made of their mean is made again
        section=section("model", "finetune"),
        settings=verbatim(EXPERIMENT.attributes.model_dump_json(exclude={"runs"})),
        evaluate=INTERVALS,
        resamples=RESAMPLED,
    shell:
        """
        trap '' TERM USR1
        python -m facemae attributes \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            {params.pretrained:q} \
            --out {params.out:q} \
            --threads {threads} >{log:q} 2>&1
        """


rule label_curve:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
        pairs=RESULTS.data.pairs,
        pretrained=pretrained,
        embedders=finetuned,
    output:
        f"{STAGE}/labels/{{subset}}/metrics.json",
        f"{STAGE}/labels/{{subset}}/resamples.parquet",
        f"{STAGE}/labels/{{subset}}/influence.parquet",
        f"{STAGE}/labels/{{subset}}/config.json",
    log:
        "logs/{run}/{seed}/labels-{subset}.log",
    wildcard_constraints:
        subset=r"\d+",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=training_memory("finetune"),
        runtime=1440,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        pretrained=pretrained_option,
        finetuned=finetuned_option,
        section=section("model", "finetune"),
        settings=verbatim(
            EXPERIMENT.label_curve.model_dump_json(include={"fractions", "per_person"})
        ),
        evaluate=INTERVALS,
        resamples=RESAMPLED,
    shell:
        """
        trap '' TERM USR1
        python -m facemae label-curve \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --subset {wildcards.subset} \
            --data {params.folder:q} \
            {params.pretrained:q} \
            {params.finetuned:q} \
            --out {params.out:q} \
            --threads {threads} >{log:q} 2>&1
        """


rule compare:
    input:
        metrics=measured("metrics.json"),
        resamples=measured("resamples.parquet"),
        influence=measured("influence.parquet"),
    output:
        RESULTS.summary,
        RESULTS.leaderboard,
        RESULTS.verdicts,
        RESULTS.verdict,
    log:
        "logs/compare.log",
    localrule: True
    conda:
        "../envs/facemae.yaml"
    resources:
        gpu=0,
        mem_mb=memory(2000),
        runtime=60,
    params:
        config=RESULTS.config,
        results=subpath(output[0], parent=True),
        evaluate=verbatim(EXPERIMENT.evaluate.model_dump_json()),
        runs=verbatim(json.dumps(config["runs"], sort_keys=True)),
    shell:
        "python -m facemae compare --config {params.config:q} --results {params.results:q} > {log:q} 2>&1"


rule report:
    input:
        leaderboard=RESULTS.leaderboard,
        verdicts=RESULTS.verdicts,
        verdict=RESULTS.verdict,
        outcomes=RESULTS.data.outcomes,
        photos=RESULTS.data.photos,
        sources=RESULTS.data.sources,
        faces=RESULTS.data.faces,
        overlaps=RESULTS.data.overlaps,
        scores=evaluated("scores.parquet"),
        logs=of_stage("pretrain", "log.jsonl", PRETRAINED),
        reconstructions=of_stage("pretrain", "reconstructions.safetensors", MASKED),
    output:
        report(
            RESULTS.overview,
            category="Verdict",
            labels={"page": "verdict, charts and reconstructions"},
            caption="../report/overview.rst",
        ),
    log:
        "logs/report.log",
    localrule: True
    conda:
        "../envs/facemae.yaml"
    resources:
        gpu=0,
        mem_mb=memory(2000),
        runtime=60,
    params:
        config=RESULTS.config,
        results=subpath(input.leaderboard, parent=True),
    shell:
        """
        python -m facemae report \
            --config {params.config:q} \
            --results {params.results:q} \
            --out {output:q} >{log:q} 2>&1
        """
