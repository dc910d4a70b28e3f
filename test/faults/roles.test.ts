import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { askAgent, servingSocket } from '../../src/agent/local-api.ts'
import { meshChecks } from '../../src/client/mesh-checks.ts'
import type { CheckReport } from '../../src/client/reports.ts'
import { defaults } from '../../src/config.ts'
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
    ['store', 'door', 'link to the root', 'certificate', 'log'],
  )
})

t.test('a second process of a role in one directory is refused', async (t) => {
  await t.rejects(startCluster(clusterOptions, silentLog), { name: 'MeshError' })
})

t.test('the mesh: what is away, and which services have too few instances', async (t) => {
  const answers: Record<string, unknown> = {
    '/clusters': [{ name: 'edge', condition: 'alive' }],
    '/nodes': [
      { id: 'edge/n1', condition: 'alive' },
      { id: 'edge/n2', condition: 'lost' },
    ],
    '/services': [
      { id: 'shop.acme.cart.prod', replicas: 3, running: 1 },
      { id: 'shop.acme.page.prod', replicas: 1, running: 1 },
    ],
  }
  const checks = await meshChecks({ call: (_method: string, path: string) => Promise.resolve(answers[path]) } as never)
  t.match(checks, [
    { check: 'mesh: clusters', ok: true, finding: 'all 1 alive' },
    { check: 'mesh: nodes', ok: false, finding: '1 of 2 are not alive: edge/n2 (lost)' },
    { check: 'mesh: services', ok: false, finding: /shop\.acme\.cart\.prod 1\/3/ },
  ])
})

t.test('after the end nobody answers', async (t) => {
  await cluster[Symbol.asyncDispose]()
  await root[Symbol.asyncDispose]()
  await t.rejects(askAgent(servingSocket(clusterDir, 'cluster'), '/status'), { code: 'NOT_RUNNING' })
})
