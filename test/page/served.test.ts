import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import type { IncomingHttpHeaders } from 'node:http'
import { get } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import Fastify from 'fastify'
import t from 'tap'
import { buildPage } from '../../.config/page.ts'
import type { App } from '../../src/orchestrator/link/link-server.ts'
import { NOT_BUILT, PAGE_HEADERS, pageRoutes, takesGzip } from '../../src/orchestrator/root/page.ts'
import { mesh } from '../orchestrator/mesh.ts'

const folder = mkdtempSync(join(tmpdir(), 'hedgerow-page-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
const built = join(folder, 'built')
const packages = await buildPage(built)

/** All that a browser loads before it shows anything. */
const FIRST_LOAD_BYTES = 150 * 1024

t.test('the page is small, and loads nothing from elsewhere', async (t) => {
  const names = readdirSync(built)
  const packed = names.filter((name) => name.endsWith('.gz')).map((name) => readFileSync(join(built, name)).length)
  const total = packed.reduce((sum, bytes) => sum + bytes, 0)
  t.ok(total <= FIRST_LOAD_BYTES, `${total} bytes, packed`)
  const html = readFileSync(join(built, 'index.html'), 'utf8')
  const loaded = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, name = '']) => name)
  t.ok(loaded.length >= 3)
  for (const name of loaded) t.ok(names.includes(name), `${name} is one of its files`)
  t.notMatch(html, /<script>|<style|style=|\son\w+=/, 'nothing inline: the policy would refuse it')
  for (const name of names.filter((name) => /\.(js|css)$/.test(name)))
    t.notMatch(
      readFileSync(join(built, name), 'utf8').replaceAll(/http:\/\/www\.w3\.org\/[\w/]+/g, ''),
      /https?:\/\/|url\((?!#)|@import/,
      `${name} names no other place`,
    )
  t.ok(packages.includes('preact'), 'its packages are told, for their licenses')
})

t.test('the files are served to anybody, with headers that keep everything else out', async (t) => {
  const app = Fastify() as unknown as App
  t.teardown(() => app.close())
  pageRoutes(app, built)
  const page = await app.inject({ url: '/ui/', headers: { 'accept-encoding': 'gzip, br' } })
  t.equal(page.statusCode, 200)
  t.match(page.headers, { ...PAGE_HEADERS, 'cache-control': 'no-cache', 'content-encoding': 'gzip' })
  t.match(page.headers['content-type'], /^text\/html/)
  t.match(PAGE_HEADERS['content-security-policy'], /default-src 'none'.*script-src 'self'/)
  t.notMatch(PAGE_HEADERS['content-security-policy'], /unsafe|\*|https?:/)
  const script = readdirSync(built).find((name) => name.endsWith('.js')) ?? ''
  const code = await app.inject(`/ui/${script}`)
  t.match(code.headers, { 'cache-control': /immutable/, 'x-content-type-options': 'nosniff' })
  t.notOk(code.headers['content-encoding'], 'not packed for whoever does not say that it can unpack')
  t.equal(code.body, readFileSync(join(built, script), 'utf8'))
  for (const url of ['/', '/ui']) t.match((await app.inject(url)).headers, { location: '/ui/' })
  for (const url of ['/ui/none.js', '/ui/../package.json', '/ui/%2e%2e/%2e%2e/package.json', '/ui/index.html.gz']) {
    const { statusCode } = await app.inject(url)
    t.equal(statusCode, 404, url)
  }
})

t.test('who can unpack', async (t) => {
  const rows = [
    ['gzip, deflate, br', true],
    ['GZIP;q=0.5', true],
    ['*', true],
    ['br', false],
    ['gzip;q=0', false],
    ['gzip;q=0.0, br', false],
    [undefined, false],
  ] as const
  for (const [accepted, takes] of rows) t.equal(takesGzip(accepted), takes, String(accepted))
})

t.test('a root serves it without a token, and says so when it has not been built', async (t) => {
  await using world = await mesh({ clusters: [] })
  const { status, headers, body } = await asked(new URL('/ui/', world.credential.url), world.credential.ca)
  t.match(headers, PAGE_HEADERS)
  if (status === 503) t.equal(body, NOT_BUILT)
  else t.match(body, '<div id="page">')
  const app = Fastify() as unknown as App
  t.teardown(() => app.close())
  pageRoutes(app, join(folder, 'none'))
  t.match(await app.inject('/ui/'), { statusCode: 503, body: NOT_BUILT })
})

function asked(url: URL, ca: string): Promise<{ status?: number; headers: IncomingHttpHeaders; body: string }> {
  return new Promise((resolve, reject) => {
    get(url, { ca, checkServerIdentity: () => undefined, agent: false }, (response) => {
      const { statusCode, headers } = response
      text(response).then(
        (body) => resolve({ ...(statusCode === undefined ? {} : { status: statusCode }), headers, body }),
        reject,
      )
    }).on('error', reject)
  })
}
