import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { redact, secretsIn } from '../../src/cli/bug-report/redact.ts'
import { readTar } from '../../src/core/kit/tar.ts'
import { Machines } from './program.ts'

/** What a bug report holds, and what it never does. */

const TOKEN = 'hedgerow-admin.Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE'
const PROXY = '0123456789abcdef0123456789abcdef'

t.test('secrets are removed, and what is needed stays', async (t) => {
  const rows = [
    ['token hedgerow-join.eyJ1cmwiOiJ4In0.abc-_1 used', 'hedgerow-join'],
    ['authorization: Bearer abc.def', 'abc.def'],
    ['authorization: Basic YTpi', 'YTpi'],
    ['tracing:\n  headers:\n    x-team: t-4711\n  ratio: 1', 't-4711'],
    ['tracing:\n  headers: { x-team: t-4711 }\n  ratio: 1', 't-4711'],
    ['tracing:\n\n  headers:\n\n    x-other: a\n    x-team: t-4711\n  ratio: 1', 't-4711'],
    ['tracing: { endpoint: "http://a", headers: { x-team: t-4711 } }', 't-4711'],
    ['{"tracing":{"headers":{"x-team":"t-4711"}}}', 't-4711'],
    ['http_proxy=http://node:0123456789@127.0.0.1:1080', '0123456789'],
    ['-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----', 'MIGH'],
    ['-----BEGIN EC PRIVATE KEY-----\nMIGH cut', 'MIGH'],
    ['DB_PASSWORD=hunter2 next', 'hunter2'],
    ['"api_key": "k-123",', 'k-123'],
    ['--secret: s3cr3t', 's3cr3t'],
    ['a known-one-of-this-machine-42 word', 'known-one-of-this-machine-42'],
  ] as const
  for (const [text, secret] of rows) t.notMatch(redact(text, ['known-one-of-this-machine-42']), secret, text)
  const harmless = [
    '2026-11-30T12:00:00Z warn no path to edge/n1 works; tried 10.0.0.1:7472 (ECONNREFUSED)',
    'hedgerow_proxy_flows_total{policy="rr",path="direct",result="closed"} 3',
    '"certificateUntil": "2026-12-01T00:00:00.000Z"',
    'shop.acme.cart.prod.0 running on edge/n1',
  ]
  for (const text of harmless) t.equal(redact(text, []), text)
})

t.test('a report of a machine whose roles say secrets that they should not', async (t) => {
  await using machines = await Machines.make()
  for (const folder of ['root/authority', 'agent/identity']) mkdirSync(machines.path('m', folder), { recursive: true })
  const key = 'MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1'
  writeFileSync(
    machines.path('m/root/admin.json'),
    JSON.stringify({ url: 'https://127.0.0.1:9', ca: 'x', token: TOKEN }),
  )
  writeFileSync(machines.path('m/agent/proxies.json'), JSON.stringify({ secret: PROXY }))
  writeFileSync(
    machines.path('m/agent/identity/identity.pem'),
    `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n`,
  )
  t.same(secretsIn(machines.path('m')).toSorted(), [PROXY, TOKEN, key].toSorted(), 'those of this machine are known')

  const asked: string[] = []
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    asked.push(request.url ?? '')
    if (request.url === '/metrics') return void response.end('hedgerow_build_info 1\n')
    const { port } = server.address() as AddressInfo
    // an identity, a token and a password in places of which nobody has thought
    const text = { ops: `http://127.0.0.1:${port}`, note: `${key} ${PROXY} ${TOKEN}`, env: 'PASSWORD=hunter2' }
    response.end(JSON.stringify(text))
  })
  const local = createServer((request, response) => server.emit('request', request, response))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  await once(local.listen(machines.path('m/agent/agent.sock')), 'listening')
  t.teardown(() => [server, local].map((one) => one.close()))

  const file = machines.path('report.tgz')
  t.match(await machines.run('m', 'bug-report', file), {
    code: 0,
    stdout: /report\.tgz: \d+ files/,
    stderr: /were removed/,
  })
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.same(readdirSync(machines.dir).toSorted(), ['m', 'report.tgz'], 'no draft is left')
  const texts = new Map<string, string>()
  const bytes = async function* () {
    yield gunzipSync(readFileSync(file))
  }
  for await (const { name, body } of readTar(bytes())) {
    const parts: Buffer[] = []
    for await (const part of body) parts.push(part)
    texts.set(name.slice(name.indexOf('/') + 1), Buffer.concat(parts).toString())
  }
  for (const name of ['machine.json', 'state-files.txt', 'agent/status.json', 'agent/flows.json', 'network/routes.txt'])
    t.ok(texts.has(name), name)
  t.equal(texts.get('agent/metrics.txt'), 'hedgerow_build_info 1\n')
  t.match(texts.get('state-files.txt'), /100644 .* agent\/identity\/identity\.pem\n/)
  t.match(texts.get('mesh/nodes.json'), /^not there: cannot reach the root/, 'what cannot be had says why')
  t.match(texts.get('agent/status.json'), /"note": "\[removed\] \[removed\] \[removed\]"/)
  for (const secret of [key, PROXY, TOKEN, 'hunter2'])
    t.notOk(
      [...texts.values()].some((text) => text.includes(secret)),
      `nowhere: ${secret}`,
    )
  t.match(await machines.run('m', 'bug-report', '/dev/null'), { code: 2, stderr: /something else than a file/ })
})
