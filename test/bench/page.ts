/**
 * `npm run bench:page`: the page with 1,000 nodes and 10,000 instances, in the chromium of this machine. What the root would answer is made up here, so
 * that nothing but the page is measured; a hundred instances change every second.
 *
 *     first load    bytes over the wire until the list of services is there
 *     interactive   from the beginning of the navigation until that list can be used
 *     frames        while the map is dragged about: times between frames, and how long the page's thread was busy with one task (Chromium's tracing)
 */
import { createServer, type ServerResponse } from 'node:http'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildPage } from '../../.config/page.ts'
import { scriptOptions } from '../../.config/script-options.ts'
import { clusterRow, instanceRow, nodeRow, serviceRow } from '../page/rows.ts'
import { startChromium } from '../page/chromium.ts'

scriptOptions({ name: 'npm run bench:page', about: 'Measures the page with a large mesh.', options: {} })

const [CLUSTERS, NODES, SERVICES, INSTANCES] = [10, 1_000, 200, 10_000]
const CHANGES = { count: 10, everyMs: 100 }
const DRAG_STEPS = 180

const dir = mkdtempSync(join(tmpdir(), 'hedgerow-bench-page-'))
await buildPage(join(dir, 'built'))
const rows = rowsOfAMesh()
const server = createServer((request, response) => answer(request.url ?? '/', response)).listen(0, '127.0.0.1')
await new Promise((resolve) => server.once('listening', resolve))
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
const browser = await startChromium()
try {
  const page = await browser.newPage({ viewport: { width: 1_600, height: 900 } })
  let bytes = 0
  page.on('response', (response) => {
    if (response.url().includes('/ui/')) bytes += Number(response.headers()['content-length'] ?? 0)
  })
  await page.goto(`${url}/ui/`)
  await page.evaluate("sessionStorage.setItem('hedgerow.token', 'bench')")
  const times: number[] = []
  for (let round = 0; round < 5; round++) {
    bytes = 0
    await page.reload({ waitUntil: 'commit' })
    await page.locator('.rowlink').first().waitFor()
    times.push(await page.evaluate('performance.now()'))
  }
  const [least, middle, most] = [0, 2, 4].map((at) => Math.round(times.toSorted((a, b) => a - b)[at] ?? 0))
  say(`first load   ${(bytes / 1_024).toFixed(1)} KB over the wire`)
  say(`interactive  ${middle} ms (${least} to ${most} of 5)`)
  await page.evaluate("location.hash = '#/map'")
  const canvas = page.locator('.map canvas')
  await canvas.waitFor()
  const { x, y, width, height } = (await canvas.boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 }
  await browser.startTracing(page, { categories: ['toplevel', 'devtools.timeline'] })
  await page.evaluate(`window.frames_ = []; (function next(last) {
    requestAnimationFrame((now) => { if (last !== undefined) frames_.push(now - last); next(now) }) })()`)
  await page.mouse.move(x + 8, y + 8)
  await page.mouse.down()
  for (let step = 0; step < DRAG_STEPS; step++)
    await page.mouse.move(
      x + width / 2 + Math.sin(step / 12) * width * 0.3,
      y + height / 2 + Math.cos(step / 9) * height * 0.3,
    )
  await page.mouse.up()
  const shown: number[] = await page.evaluate('frames_')
  const gaps = shown.toSorted((a, b) => a - b)
  const trace = JSON.parse((await browser.stopTracing()).toString()) as { traceEvents: TraceEvent[] }
  const at = (share: number, all: readonly number[]) => (all[Math.floor(all.length * share)] ?? 0).toFixed(1)
  say(
    `frames       ${gaps.length}; between two: median ${at(0.5, gaps)} ms, 95 % ${at(0.95, gaps)} ms, longest ${at(0.9999, gaps)} ms`,
  )
  const tasks = tasksIn(trace.traceEvents)
  say(`tasks        ${tasks.length} of the page's thread; 99 % ${at(0.99, tasks)} ms, longest ${at(0.9999, tasks)} ms`)
} finally {
  await browser.close()
  server.closeAllConnections()
  server.close()
  rmSync(dir, { recursive: true, force: true })
}

interface TraceEvent {
  name: string
  ph: string
  pid: number
  tid: number
  dur?: number
  args?: { name?: string }
}

/** ms, the shortest first. */
function tasksIn(events: readonly TraceEvent[]): number[] {
  const isMain = ({ name, args }: TraceEvent) => name === 'thread_name' && args?.name === 'CrRendererMain'
  const mains = new Set(events.filter(isMain).map(({ pid, tid }) => `${pid} ${tid}`))
  return events
    .filter(
      ({ name, ph, pid, tid }) =>
        ph === 'X' && (name === 'RunTask' || name === 'ThreadControllerImpl::RunTask') && mains.has(`${pid} ${tid}`),
    )
    .map(({ dur = 0 }) => dur / 1_000)
    .toSorted((a, b) => a - b)
}

function rowsOfAMesh() {
  const nodeOf = (at: number) => `c${at % CLUSTERS}/n${Math.floor(at / CLUSTERS)}`
  const serviceOf = (at: number) => `shop.acme.s${at % SERVICES}.prod`
  return {
    clusters: Array.from({ length: CLUSTERS }, (_, at) => clusterRow(`c${at}`, { nodes: NODES / CLUSTERS })),
    nodes: Array.from({ length: NODES }, (_, at) => nodeRow(nodeOf(at), { instances: INSTANCES / NODES })),
    services: Array.from({ length: SERVICES }, (_, at) =>
      serviceRow({ id: serviceOf(at), replicas: INSTANCES / SERVICES, running: INSTANCES / SERVICES }),
    ),
    instances: Array.from({ length: INSTANCES }, (_, at) =>
      instanceRow(Math.floor(at / SERVICES), { service: serviceOf(at), node: nodeOf(at % NODES) }),
    ),
  }
}

function answer(path: string, response: ServerResponse): void {
  const json = (body: unknown) => response.setHeader('content-type', 'application/json').end(JSON.stringify(body))
  if (path.startsWith('/v1/watch')) return watch(response)
  if (path.startsWith('/v1/status')) return void json({ mesh: 'bench', version: '0' })
  if (path.startsWith('/v1/me'))
    return void json({ user: 'admin', by: 'credential', grants: [], organisations: [], isAdministrator: true })
  if (path.startsWith('/v1/')) return void json({ items: [] })
  const name = path.replace('/ui/', '').split('?')[0] || 'index.html'
  const type =
    { js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' }[name.split('.').at(-1) ?? ''] ?? 'text/html'
  const packed = readFileSync(join(dir, 'built', `${name}.gz`))
  response.writeHead(200, { 'content-type': type, 'content-encoding': 'gzip', 'content-length': packed.length })
  response.end(packed)
}

function watch(response: ServerResponse): void {
  response.setHeader('content-type', 'text/event-stream')
  const send = (event: string, body: unknown) => response.write(`event: ${event}\ndata: ${JSON.stringify(body)}\n\n`)
  send('reset', { kinds: Object.keys(rows) })
  for (const [kind, all] of Object.entries(rows))
    for (const row of all) send(kind, { id: 'id' in row ? row.id : row.name, row })
  send('synced', {})
  let turn = 0
  const timer = setInterval(() => {
    for (let count = 0; count < CHANGES.count; count++) {
      const row = rows.instances[(turn++ * 37) % INSTANCES]
      if (row !== undefined)
        send('instances', { id: row.id, row: { ...row, state: turn % 2 === 0 ? 'running' : 'starting' } })
    }
  }, CHANGES.everyMs)
  response.on('close', () => clearInterval(timer))
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
