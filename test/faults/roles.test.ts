import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { askAgent, servingSocket } from '../../src/agent/local-api.ts'
import { meshChecks } from '../../src/client/mesh-checks.ts'
import type { CheckReport } from '../../src/client/reports.ts'
import { readCredential, RootClient } from '../../src/client/root-client.ts'
import { defaults } from '../../src/config/defaults.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { startCluster, startRoot } from '../../src/roles/control.ts'

/*
 * What monitoring asks: each role on its own socket, and the root about the mesh.
 */

const dir = mkdtempSync(join(tmpdir(), 'hr-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))
const config = defaults('host')
const anywhere = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' }
const rootDir = join(dir, 'root')
const clusterDir = join(dir, 'cluster')
const root = await startRoot({ dir: rootDir, config: { ...config.root, ...anywhere }, version: '1' }, silentLog)
const token = root.part.clusterToken('edge')
const clusterOptions = { dir: clusterDir, config: { ...config.cluster, ...anywhere }, version: '1', token }
const cluster = await startCluster(clusterOptions, silentLog)

t.test('status and check of a root and of a cluster', async (t) => {
  t.match(await askAgent(servingSocket(rootDir, 'root'), '/status'), { version: '1', pid: process.pid, mesh: /./ })
  const path = servingSocket(clusterDir, 'cluster')
  t.match(await askAgent(path, '/status'), { name: 'edge', certificateUntil: /^\d{4}-/, nodes: [] })
  const { checks } = (await askAgent(path, '/check')) as CheckReport
  t.match(
    checks.map(({ check }) => check),
    ['store', 'listener', 'link to the root', 'certificate', 'log'],
  )
})

t.test('a second process of a role in one directory is refused', async (t) => {
  await t.rejects(startCluster(clusterOptions, silentLog), { name: 'MeshError' })
})

t.test('the root knows until when the certificate of a cluster is valid', async (t) => {
  const rows = (await new RootClient(readCredential(join(rootDir, 'admin.json'))).call('GET', '/clusters')) as {
    certificateUntil: number
  }[]
  const [row] = rows
  const left = (row?.certificateUntil ?? 0) - Date.now()
  t.ok(left > 29 * 86_400_000 && left < 31 * 86_400_000, `${left / 86_400_000} days`)
})

t.test('the mesh: what is away, whose certificates end, and which services have too few instances', async (t) => {
  const now = 1_700_000_000_000
  const inHours = (hours: number) => now + hours * 3_600_000
  const answers: Record<string, unknown> = {
    '/clusters': [{ name: 'edge', condition: 'alive', certificateUntil: inHours(23) }],
    '/nodes': [
      { id: 'edge/n1', condition: 'alive', certificateUntil: inHours(8), silentMs: 1_400, linksLost: 2 },
      {
        id: 'edge/n2',
        condition: 'lost',
        certificateUntil: inHours(-1),
        duplicateAt: inHours(-0.1),
        mayStillRun: ['shop.acme.cart.prod.1'],
      },
      { id: 'edge/n3', condition: 'alive', duplicateAt: inHours(-2), silentMs: 2_000 },
      { id: 'edge/n4', condition: 'alive', silentMs: 300, linksLost: 3 },
    ],
    '/relays': [{ id: 'edge/r1', condition: 'away', certificateUntil: inHours(0.5) }],
    '/services': [
      { id: 'shop.acme.cart.prod', replicas: 3, running: 1 },
      { id: 'shop.acme.page.prod', replicas: 1, running: 1 },
    ],
  }
  const checks = await meshChecks(
    {
      all: async (path: string) => answers[path.slice('/v1'.length)],
      ask: async (_method: string, path: string) => answers[path.slice('/v1'.length)],
    } as never,
    now,
  )
  t.match(checks, [
    { check: 'mesh: clusters', ok: true, finding: 'all 1 alive' },
    { check: 'mesh: nodes', ok: false, finding: '1 of 4 are not alive: edge/n2 (lost)' },
    {
      check: 'mesh: doubted nodes',
      ok: false,
      finding: 'edge/n3 (silent for 2.0 s), edge/n4 (its link went down 3 times in 15 minutes)',
    },
    { check: 'mesh: relays', ok: false, finding: '1 of 1 are not alive: edge/r1 (away)' },
    {
      check: 'mesh: certificates',
      ok: false,
      finding: /edge \(ends .*\), edge\/n2 \(ended .*\), edge\/r1 \(ends .*\)$/,
    },
    { check: 'mesh: identities', ok: false, finding: 'used by two processes: edge/n2' },
    { check: 'mesh: services', ok: false, finding: /shop\.acme\.cart\.prod 1\/3/ },
    { check: 'mesh: instances that may run twice', ok: false, finding: /shop\.acme\.cart\.prod\.1 on edge\/n2$/ },
  ])
})

t.test('after the end nobody answers', async (t) => {
  await cluster[Symbol.asyncDispose]()
  await root[Symbol.asyncDispose]()
  await t.rejects(askAgent(servingSocket(clusterDir, 'cluster'), '/status'), { code: 'NOT_RUNNING' })
})
