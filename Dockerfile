# The agent's image (and root's and the cluster's: the same program).
#
#     docker build -t hedgerow .
#     docker run --network host -v hedgerow:/var/lib/hedgerow -e HEDGEROW_TOKEN hedgerow agent --name n1
#     host mode:  … --user 0 --cap-add NET_ADMIN hedgerow agent --mode host
#
# Any base with Node 24.19 or newer and npm will do; `ip` is installed where it is missing (by apt-get).
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build/app
COPY package.json package-lock.json tsconfig.json .npmrc ./
COPY .config .config
# What runs; the optional packages are Node itself, for clones, and what only the lab needs.
RUN npm ci --omit=dev --omit=optional --ignore-scripts
# The compilers and types, by the versions of package.json: one folder up, where they are found and not taken along.
RUN cd .. && npm install --no-save --no-package-lock --ignore-scripts $(node -p " \
  const { devDependencies, optionalDependencies } = require('./app/package.json'); \
  const all = Object.entries({ ...devDependencies, ...optionalDependencies }); \
  all.filter(([name]) => /^(typescript|esbuild|preact|koffi|@types\/.*)$/.test(name)).map((pair) => pair.join('@')).join(' ')")
COPY CHANGELOG.md ./
COPY src src
COPY proxy proxy
COPY resolver resolver
RUN node .config/build.ts

FROM ${NODE_IMAGE}
# host mode calls `ip`
RUN { command -v ip > /dev/null \
   || { apt-get update && apt-get install --yes --no-install-recommends iproute2 && rm -rf /var/lib/apt/lists/*; }; } \
 && install --directory --owner 1000 --group 1000 --mode 0700 /var/lib/hedgerow
WORKDIR /app
COPY --from=build /build/app/package.json ./
COPY --from=build /build/app/node_modules node_modules
COPY --from=build /build/app/dist dist
# `docker exec NAME hedgerow status`
RUN mkdir -p /usr/local/bin \
 && printf '#!/bin/sh\nexec node --max-semi-space-size=2 --single-threaded-gc /app/dist/src/hedgerow.js "$@"\n' > /usr/local/bin/hedgerow \
 && chmod 0755 /usr/local/bin/hedgerow
ENV NODE_ENV=production HEDGEROW_STATE=/var/lib/hedgerow
VOLUME /var/lib/hedgerow
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["node", "/app/dist/src/hedgerow.js", "status"]
ENTRYPOINT ["node", "--max-semi-space-size=2", "--single-threaded-gc", "/app/dist/src/hedgerow.js"]
CMD ["agent"]
