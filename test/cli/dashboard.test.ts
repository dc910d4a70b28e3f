import { request, type IncomingHttpHeaders } from 'node:http'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { DashboardServer } from '../../src/cli/dashboard-server.ts'
import { mesh, sla } from '../orchestrator/mesh.ts'

interface Answer {
  status: number | undefined
  headers: IncomingHttpHeaders
  body: string
}

function ask(
  base: string,
  path: string,
  { method = 'GET', headers = {}, body }: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = request(new URL(path, base), { method, headers, agent: false }, (response) => {
      text(response).then((body) => resolve({ status: response.statusCode, headers: response.headers, body }), reject)
    })
    asking.on('error', reject)
    asking.end(body)
  })
}

t.test('a browser of this machine reaches the root with a key in place of the token', async (t) => {
  await using world = await mesh({ clusters: [] })
  const { credential } = world
  await using server = await DashboardServer.start(credential, 0)
  const [, base = '', key = ''] = /^(http:\/\/127\.0\.0\.1:\d+)\/ui\/#key=([\w-]{32})$/.exec(server.url) ?? []
  t.ok(key, server.url)
  const authorization = `Bearer ${key}`

  // the page itself needs no key, and keeps its headers
  const page = await ask(base, '/ui/')
  t.match(page.headers['content-security-policy'], "default-src 'none'")
  t.match(await ask(base, '/'), { status: 302, headers: { location: '/ui/' } })

  // the API does
  t.match(await ask(base, '/v1/services', { headers: { authorization } }), { status: 200, body: '{"items":[]}' })
  for (const given of [undefined, `Bearer ${credential.token}`, 'Bearer ', `Bearer ${key}x`]) {
    const headers = given === undefined ? {} : { authorization: given }
    t.match(await ask(base, '/v1/services', { headers }), { status: 401, body: /hedgerow dashboard/ }, String(given))
  }

  // what changes something goes through as well
  const body = JSON.stringify(sla({ microservice_name: 'cart' }))
  const applied = await ask(base, '/api/v1/apps?dryRun=true', {
    method: 'POST',
    headers: { authorization, 'content-type': 'application/json' },
    body,
  })
  t.match(applied, { status: 200, body: /shop\.acme\.cart\.prod/ })

  // another name that leads to this machine, and other paths of the root, do not
  t.match(await ask(base, '/ui/', { headers: { host: 'evil.example' } }), { status: 421 })
  for (const path of ['/ca', '/healthz', '/link', '/enrol'])
    t.match(await ask(base, path, { headers: { authorization } }), { status: 404 }, path)

  // the root is gone
  await world.stopRoot()
  t.match(await ask(base, '/v1/services', { headers: { authorization } }), { status: 502, body: /does not answer/ })
})

t.test('a port that is taken is told', async (t) => {
  const credential = { url: 'https://127.0.0.1:1', ca: '', token: 'x' }
  await using first = await DashboardServer.start(credential, 0)
  await t.rejects(DashboardServer.start(credential, Number(new URL(first.url).port)), { code: 'LISTEN_FAILED' })
})
