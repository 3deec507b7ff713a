# docker build -t deepcoro .            (--build-arg EXTRAS=timm,serve; --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 for nvcc)
# docker run --rm --gpus all --network none -v /data:/data deepcoro /data/films.csv --checkpoint /data/run --output /data/site.json
#
# torch brings CUDA's libraries with it; of the base only the driver's contract is used. docs/container.md tells the rest.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${BASE}
ARG EXTRAS=timm
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/deepcoro

# What changes seldom comes first, so that a change of the code does not fetch torch anew.
COPY container/ container/
RUN container/install.sh system
COPY pyproject.toml requirements.txt ./
# A mirror, a proxy's certificate: `--secret id=pip,src=pip.conf` is read here and stays in no layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf container/install.sh dependencies --extras "${EXTRAS}"
COPY . .
RUN container/install.sh place && container/install.sh user

USER 10001
RUN --network=none container/install.sh check
ENTRYPOINT ["/usr/local/bin/validate_site"]
CMD ["--help"]
