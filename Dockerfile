# The app in a container, exactly as requirements.lock says. docs/deploy.md tells how to run it.
# Results, and the gallery of people enrolled, are volumes: the image holds no weights and nobody's data.

# For the same base every time give it by its digest: --build-arg PYTHON=python@sha256:...
ARG PYTHON=python:3.11-slim
FROM $PYTHON AS build
WORKDIR /app
# The packages first: they change seldom, and take minutes.
COPY requirements.lock ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY facemae ./facemae
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --editable .
COPY app.py config.yaml ./
COPY config/defaults.yaml ./config/defaults.yaml
COPY .streamlit/config.toml ./.streamlit/config.toml

FROM $PYTHON
RUN useradd --uid 10001 --create-home facemae && install -d -o facemae -m 700 /gallery
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
# In the container every address is listened on, so nothing shows without FACEMAE_PROXY_SECRET or a login.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    FACEMAE_RESULTS=/results \
    FACEMAE_GALLERY=/gallery/faces.sqlite \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_HEADLESS=true \
    STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
VOLUME /gallery
EXPOSE 8501
USER facemae
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "import urllib.request as web; web.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
CMD ["streamlit", "run", "app.py"]
