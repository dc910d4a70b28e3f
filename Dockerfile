# The agent's image (and root's and the cluster's: the same program).
#
#     docker build -t hedgerow .
#     docker run --network host -v hedgerow:/var/lib/hedgerow -e HEDGEROW_TOKEN hedgerow agent --name n1
#     host mode:  … --user 0 --cap-add NET_ADMIN hedgerow agent --mode host
#
# Any base with Node 24.19 or newer will do.
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json tsconfig.json .npmrc ./
COPY .config .config
RUN npm ci --ignore-scripts
COPY src src
COPY proxy proxy
COPY resolver resolver
# What runs is built; then only what it needs stays. The optional packages are Node itself, for clones.
RUN npm run build && npm ci --omit=dev --omit=optional --ignore-scripts

FROM ${NODE_IMAGE}
# host mode calls `ip`
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iproute2 \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 1000 --group 1000 --mode 0700 /var/lib/hedgerow
WORKDIR /app
COPY --from=build /build/package.json ./
COPY --from=build /build/node_modules node_modules
COPY --from=build /build/dist dist
ENV NODE_ENV=production HEDGEROW_STATE=/var/lib/hedgerow
VOLUME /var/lib/hedgerow
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["node", "/app/dist/src/hedgerow.js", "status"]
ENTRYPOINT ["node", "--max-semi-space-size=2", "--single-threaded-gc", "/app/dist/src/hedgerow.js"]
CMD ["agent"]
