"""From photos to aligned faces with roles. Shards and unpacked archives are kept beside the outputs, undeclared:
Snakemake deletes the declared outputs of a job that failed or was killed, and with them all progress.
"""


rule fetch:
    output:
        RESULTS.data.photos,
        RESULTS.data.sources,
        RESULTS.data.listed_pairs,
    log:
        "logs/fetch.log",
    localrule: True
    conda:
        "../envs/facemae.yaml"
    resources:
        gpu=0,
        mem_mb=memory(2000),
        runtime=1440,
    params:
        folder=subpath(output[0], parent=True),
        config=RESULTS.config,
        data=verbatim(
            EXPERIMENT.data.model_dump_json(
                include={"labelled", "unlabelled", "tested"}
            )
        ),
        sources=source_states(),
    shell:
        "python -m facemae fetch --config {params.config:q} --data {params.folder:q} > {log:q} 2>&1"


rule align:
    input:
        photos=RESULTS.data.photos,
        sources=RESULTS.data.sources,
    output:
        faces=RESULTS.data.faces,
        outcomes=report(
            RESULTS.data.outcomes,
            category="Data",
            labels={"table": "what became of each photo"},
            caption="../report/outcomes.rst",
        ),
    log:
        "logs/align.log",
    benchmark:
        "logs/align.benchmark.tsv"
    conda:
        "../envs/facemae.yaml"
    # The faces do not depend on it: each worker computes with one thread.
    threads: 8
    resources:
        gpu=gpus,
        mem_mb=lambda wildcards, threads, attempt: memory(500 + 900 * threads)(
            wildcards, attempt
        ),
        runtime=1440,
    params:
        folder=subpath(output[0], parent=True),
        config=RESULTS.config,
        data=verbatim(
            EXPERIMENT.data.model_dump_json(
                include={"image_size", "align", "faces", "min_score"}
            )
        ),
    shell:
        """
        python -m facemae align \
            --config {params.config:q} \
            --data {params.folder:q} \
            --workers {threads} >{log:q} 2>&1
        """


rule cache:
    input:
        faces=RESULTS.data.faces,
    output:
        RESULTS.data.cache,
        RESULTS.data.cache_hashes,
    log:
        "logs/cache.log",
    conda:
        "../envs/facemae.yaml"
    resources:
        gpu=0,
        mem_mb=memory(2000),
        runtime=240,
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m facemae cache --data {params.folder:q} > {log:q} 2>&1"


rule split:
    input:
        faces=RESULTS.data.faces,
        pairs=RESULTS.data.listed_pairs,
        cache=RESULTS.data.cache if EXPERIMENT.split.embedder else [],
    output:
        RESULTS.data.split,
        RESULTS.data.pairs,
        RESULTS.data.overlaps,
    log:
        "logs/split.log",
    conda:
        "../envs/facemae.yaml"
    resources:
        gpu=lambda wildcards: gpus(wildcards) if EXPERIMENT.split.embedder else 0,
        mem_mb=memory(4000),
        runtime=240,
    params:
        folder=subpath(output[0], parent=True),
        config=RESULTS.config,
        split=verbatim(EXPERIMENT.split.model_dump_json() + people_seen()),
    shell:
        "python -m facemae split --config {params.config:q} --data {params.folder:q} > {log:q} 2>&1"


rule data:
    input:
        RESULTS.data.outcomes,
        RESULTS.data.cache,
    localrule: True
    resources:
        gpu=0,
        mem_mb=100,
        runtime=5,
