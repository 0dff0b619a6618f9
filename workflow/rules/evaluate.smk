"""From a trained run, or a control, to the verdict and the report's page."""

RUN = "|".join(EXPERIMENT.run_names)
BASELINE = "|".join(EXPERIMENT.baselines) or "none"


rule embed:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
        embedder=f"{STAGE}/finetune/embedder.safetensors",
        metrics=f"{STAGE}/finetune/metrics.json",
    output:
        f"{STAGE}/embed/embeddings.parquet",
        f"{STAGE}/embed/metrics.json",
        f"{STAGE}/embed/config.json",
    log:
        "logs/{run}/{seed}/embed.log",
    wildcard_constraints:
        run=RUN,
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=memory(PYTORCH_MB),
        runtime=60,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        finetuned=subpath(input.embedder, parent=True),
    shell:
        """
        python -m facemae embed \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            --finetuned {params.finetuned:q} \
            --out {params.out:q} \
            --threads {threads} 2>&1 | tee -i {log:q}
        """


rule baseline:
    input:
        faces=RESULTS.data.cache_hashes,
        split=RESULTS.data.split,
    output:
        f"{STAGE}/embed/embeddings.parquet",
        f"{STAGE}/embed/metrics.json",
        f"{STAGE}/embed/config.json",
    log:
        "logs/{run}/{seed}/baseline.log",
    wildcard_constraints:
        run=BASELINE,
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory(PYTORCH_MB),
        runtime=60,
    params:
        folder=subpath(input.split, parent=True),
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        model=EXPERIMENT.defaults.model.model_dump_json(),
    shell:
        """
        python -m facemae baseline \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --data {params.folder:q} \
            --out {params.out:q} \
            --threads {threads} 2>&1 | tee -i {log:q}
        """


rule evaluate:
    input:
        split=RESULTS.data.split,
        embeddings=f"{STAGE}/embed/embeddings.parquet",
        metrics=f"{STAGE}/embed/metrics.json",
    output:
        f"{STAGE}/evaluate/metrics.json",
        f"{STAGE}/evaluate/scores.parquet",
        f"{STAGE}/evaluate/resamples.parquet",
        f"{STAGE}/evaluate/config.json",
    log:
        "logs/{run}/{seed}/evaluate.log",
    conda:
        "../envs/facemae.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory(2000),
        runtime=60,
    params:
        config=RESULTS.config,
        out=subpath(output[0], parent=True),
        embeddings=subpath(input.embeddings, parent=True),
        evaluate=EXPERIMENT.evaluate.model_dump_json(exclude={"primary"}),
    shell:
        """
        python -m facemae evaluate \
            --config {params.config:q} \
            --run {wildcards.run} \
            --seed {wildcards.seed} \
            --embeddings {params.embeddings:q} \
            --split {input.split:q} \
            --out {params.out:q} 2>&1 | tee -i {log:q}
        """


rule compare:
    input:
        metrics=evaluated("metrics.json"),
        resamples=evaluated("resamples.parquet"),
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
        evaluate=EXPERIMENT.evaluate.model_dump_json(),
        runs=json.dumps(config["runs"], sort_keys=True),
    shell:
        "python -m facemae compare --config {params.config:q} --results {params.results:q} 2>&1 | tee -i {log:q}"


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
        logs=pretrain_files("log.jsonl"),
        reconstructions=pretrain_files("reconstructions.safetensors"),
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
            --out {output:q} 2>&1 | tee -i {log:q}
        """
