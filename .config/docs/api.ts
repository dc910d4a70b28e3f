import { createHash } from 'node:crypto'
import { documentOf } from '../../src/orchestrator/root/v1/openapi.ts'
import type { Need } from '../../src/orchestrator/root/people/need.ts'
import { OPERATIONS } from '../../src/orchestrator/root/v1/routes.ts'

export function apiDocument(): ReturnType<typeof documentOf> {
  return documentOf(OPERATIONS, '0.0.0')
}

/** What src/client/api-types.ts was written from. */
export function hashOfDocument(): string {
  return createHash('sha256').update(JSON.stringify(apiDocument())).digest('hex')
}

/** The page of docs/ about the API: how to use it, by hand, and its calls, from the operations. */
export function apiPage(notice: string): string {
  return [notice, '# The API\n', ABOUT, '## Calls\n', calls()].join('\n')
}

const ABOUT = `The root answers under \`/v1\` on its one port, by HTTPS. \`/v1/openapi.json\` describes every call and every answer (OpenAPI 3.1); it is
made from the schemas that check what comes in, and tests compare every answer with it.

    $ curl -k -H "authorization: Bearer $(jq -r .token <state>/root/admin.json)" 'https://127.0.0.1:7470/v1/services?limit=20'

The certificate of the root is by the authority of the mesh (\`ca\` in \`admin.json\`) and names the root of the mesh, \`spiffe://MESH/root\`, not a host;
curl cannot check that, so \`-k\` is for the machine of the root only. The client of the package checks it ([embedding.md](embedding.md)).

- **Who asks** says so with \`Authorization: Bearer TOKEN\`: the token of the administrator, which is in \`admin.json\`, an API token, or that of a
  session (\`POST /v1/login\`). What that may see and do, its roles say ([tenants.md](tenants.md)): lists and streams have nothing else, a
  name that is not theirs is unknown (404), and what they may see and not do is refused (403).
- **Lists** come in pages: \`{"items":[…],"next":"…"}\`. \`limit\` says how many at most (100; at most 1,000), \`cursor\` is \`next\` of the page before;
  the last page has no \`next\`. What comes and goes meanwhile moves nothing. Lists are in the order of the ids, events are the newest first.
- **Filters** are in the query; one that the call does not know is refused.
- **Refusals** are problem details (RFC 9457, \`application/problem+json\`): \`status\`, \`code\` (of [errors.md](errors.md)), \`detail\` in one sentence,
  \`remedy\`, \`faults\` where there are several, and \`requestId\`, which the logs of the root have as well.
- **\`GET /v1/watch\`** is a stream of server-sent events: first \`reset\` (\`{"kinds":[…]}\`: forget what you know of these), then every row, then \`synced\`,
  and from then on what changes, at most a second later: \`event: instances\`, \`data: {"id":"…","row":{…}}\`; a row that is \`null\` is gone. \`kinds\` says of
  what: \`services,instances,nodes,clusters,events\`. A stream that broke goes on behind the number in \`Last-Event-ID\`, as browsers do by themselves; where
  the root has forgotten that, or was restarted, everything comes anew behind a \`reset\`. Events come by their number, the newest 100 of them first, and
  go on over a restart. At most 64 streams at a time.
- **A change is for what was read**: \`GET /v1/services/NAME\` has an \`etag\` of the document of the service; with \`If-Match\` a change of it is refused (412)
  when somebody else was faster.
- **A request is made once** that has an \`Idempotency-Key\`: asked again with the same key within a day, also after a restart, the root gives the answer
  of the first time. The last 1,000 are kept; what was refused may be tried again. Secrets, join tokens and commands in instances take no key, since nothing of
  them is kept.
- **\`GET /v1/events/stream\`** follows what happens to one thing, or to all: \`name\`, \`since\` and \`after\` in the query, each event with its number as \`id\`,
  by which a stream goes on (\`Last-Event-ID\`); \`event: missing\` says that some were forgotten.
- **A command in an instance** is three requests: \`POST /v1/instances/NAME/exec\` begins it and answers with its number, \`GET /v1/exec/NUMBER\` has what it prints
  as frames (a byte for where to, the length in 32 bits, the bytes; the last one is its exit code), \`POST /v1/exec/NUMBER/input\` brings what it reads.
- **Connections** may be kept: the root closes one after 15 s without a request. (Node keeps none whose request has a \`checkServerIdentity\` of its own; give that to
  the \`Agent\`, as the client of the package does.)
- **Rates**: 200 requests a second for each token, 400 at once; then 429 with \`Retry-After\`.
- Every answer has \`x-request-id\`; the log line \`API request\` has it as \`requestId\` (changes at level info, questions at debug).
- **Times** are milliseconds since 1970.

The paths of earlier versions, under \`/api/v1\`, are deprecated: they answer the administrator as before, and nobody else, with a \`Deprecation\` header, and go in
the next version. Commands of this version ask \`/v1\`, so they need a root of this version or a newer one; commands of earlier versions work with this root.
`

function calls(): string {
  const rows = OPERATIONS.map(({ method, path, summary, query, needs }) => {
    const keys = Object.keys(query.properties).map((key) => `\`${key}\``)
    return `| \`${method.toUpperCase()} /v1${path}\` | ${summary} | ${keys.join(' ')} | ${needWords(needs)} |`
  })
  return ['| call | what it is about | in the query | permission |', '|---|---|---|---|', ...rows, ''].join('\n')
}

function needWords(needs: Need): string {
  if (needs === 'open') return 'none'
  if (needs === 'self') return 'any, of oneself'
  const [permission = '', of = ''] = needs.split(' ')
  return of === 'mesh' || of === 'listed' || of === 'given' ? `\`${permission}\`` : `\`${permission}\` of the ${of}`
}
