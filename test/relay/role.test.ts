import { join } from 'node:path'
import t from 'tap'
import { relayCredentials } from '../../src/agent/relays.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { nodeIdOf, printPrincipal } from '../../src/core/identity/principal.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Uplink } from '../../src/orchestrator/worker/uplink.ts'
import { until as eventually } from '../orchestrator/mesh.ts'
import { until } from '../proxy/world.ts'
import { Plane } from './plane.ts'

const plane = await Plane.start()
t.teardown(() => plane[Symbol.asyncDispose]())
const metrics = openMetrics('agent')
const token = async (body: object) => (await plane.api.call<{ token: string }>('POST', '/tokens', body)).token

const relayRows = () => plane.api.call<Array<{ id: string; condition: string; version?: string }>>('GET', '/relays')
const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')
const listener = (url: string, identity: HeldIdentity) =>
  RelayListener.start(
    {
      url,
      credentials: () => relayCredentials({ certificate: identity, egress: undefined }),
      onConnection: () => undefined,
    },
    silentLog,
  )

t.test(
  'a standalone relay joins, is announced, disconnects revoked nodes and keeps serving without its cluster',
  async (t) => {
    const config = await plane.relayConfig('r1')
    const joined = await plane.relay(config, { token: await token({ role: 'relay', cluster: 'edge' }) })
    const { url } = joined.part
    t.match(joined.summary(), { role: 'relay', name: 'r1', relay: `wss://${config.listen}/relay` })
    await until(() => joined.part.isLinked())

    const { identity, url: clusterUrl } = await plane.member('n1')
    const told: string[][] = []
    let relays = [url]
    await using uplink = Uplink.start(
      {
        urls: [clusterUrl],
        identity,
        facts: () => ({
          id: idOf(identity),
          capacity: { memoryMb: 1, vcpus: 1, vgpus: 0, vtpus: 0, storageMb: 0 },
          runtimes: [],
          arch: 'amd64',
          addresses: [],
          relays,
          labels: {},
          version: '0',
        }),
        worker: {
          assign: () => undefined,
          withdraw: () => false,
          keepOnly: () => undefined,
          reports: () => [],
          logs: async function* () {
            yield* []
          },
        },
        onRelays: (urls) => told.push([...urls]),
      },
      silentLog,
      metrics,
    )
    await until(() => uplink.isUp && told.length > 0)
    t.same(told.at(-1), [plane.cluster.part.relayUrl, url], 'the cluster announces both to its nodes')

    const second = await plane.relayConfig('r2')
    await using other = await plane.relay(second, { token: plane.cluster.part.relayToken() })
    await until(() => told.at(-1)?.includes(other.part.url) === true)
    t.pass('and of a new one at once')

    await eventually(async () => (await relayRows())[1]?.version !== undefined, 'r1 has said what it is')
    t.match(await relayRows(), [
      { id: 'edge', kind: 'cluster', url: plane.cluster.part.relayUrl, condition: 'alive', nodes: 0 },
      { id: 'edge/r1', kind: 'stand-alone', url, condition: 'alive', nodes: 1, version: String },
      { id: 'edge/r2', kind: 'stand-alone', url: other.part.url, condition: 'alive', nodes: 0 },
    ])

    await using near = listener(url, identity)
    await using stranger = listener(url, await plane.identity('n2'))
    await until(() => near.isListening && stranger.isListening)
    t.same(joined.part.listening().toSorted(), ['edge/n1', 'edge/n2'])
    t.ok((await near.measure()) > 0)

    await plane.api.call('DELETE', '/nodes/edge/n1')
    await until(() => !near.isListening)
    t.same(joined.part.listening(), ['edge/n2'], 'the revoked one is cut at the relay, the other is not')
    relays = []

    await joined[Symbol.asyncDispose]()
    await eventually(async () => (await relayRows())[1]?.condition === 'away', 'its link is down')
    t.match((await relayRows())[1], { id: 'edge/r1', url }, 'it is still announced to nodes')
    const metricsOf = async (address: string) => (await fetch(`${address}/metrics`)).text()
    await using again = await plane.relay(config)
    await until(() => stranger.isListening)
    t.notOk(near.isListening, 'it remembers who was revoked')
    const health = again.summary()['health'] ?? ''
    t.match(await metricsOf(health), /hedgerow_relay_nodes_listening\{role="relay"\} 1/)
    t.equal((await fetch(`${health}/readyz`)).status, 200)
    await again[Symbol.asyncDispose]()
  },
)

t.test('only a holder of a relay token may become a relay', async (t) => {
  const config = await plane.relayConfig('r3')
  await t.rejects(plane.relay(config), { code: 'TOKEN_INVALID' }, 'a node without a token is refused')
  const node = plane.cluster.part.nodeToken()
  await t.rejects(plane.relay(config, { token: node }), { code: 'TOKEN_REFUSED' }, 'a token for a node')
  const [prefix, body = ''] = node.split('.')
  const content = JSON.parse(Buffer.from(body, 'base64url').toString()) as object
  const forged = `${prefix}.${Buffer.from(JSON.stringify({ ...content, role: 'relay' })).toString('base64url')}`
  await t.rejects(plane.relay(config, { token: forged }), { code: 'TOKEN_REFUSED' }, 'nor with another word in it')
  const good = await token({ role: 'relay', cluster: 'edge' })
  const open = { ...config, listen: config.listen.replace('127.0.0.1', '0.0.0.0') }
  await t.rejects(plane.relay(open, { token: good }), { code: 'CONFIG_INVALID' }, 'an address nobody can dial')
  await using relay = await plane.relay({ ...open, publicUrl: 'https://127.0.0.1:443' })
  t.equal(relay.part.url, 'wss://127.0.0.1:443/relay')
  await until(() => relay.part.isLinked())
  const twice = await token({ role: 'relay', cluster: 'edge' })
  const same = plane.relay({ ...(await plane.relayConfig('r3')) }, { token: twice, dir: join(plane.dir, 'elsewhere') })
  await t.rejects(same, { code: 'TOKEN_REFUSED', details: { reason: 'a relay of this name is connected' } })
})

t.test('a relay’s certificate is valid for relaying only', async (t) => {
  const config = await plane.relayConfig('r4')
  await using _relay = await plane.relay(config, { token: plane.cluster.part.relayToken() })
  const { HeldIdentity: Held } = await import('../../src/core/identity/held.ts')
  const identity = await Held.open(join(plane.dir, 'relay-r4', 'identity'))
  if (identity === undefined) throw new Error('it has none')
  t.match(printPrincipal(identity.principal), /^spiffe:\/\/hedgerow-[0-9a-f]{8}\/cluster\/edge\/relay\/r4$/)
  await using posing = listener(plane.cluster.part.relayUrl ?? '', identity)
  const { dialText } = await import('../../src/core/kit/websocket.ts')
  const { tls } = relayCredentials({ certificate: identity, egress: undefined })
  const asNode = dialText(`${plane.cluster.part.relayUrl}?listen`, { tls }, AbortSignal.timeout(5_000))
  await t.rejects(asNode, { code: 'REQUEST_FAILED', details: { status: 403 } }, 'it cannot listen as a node')
  t.notOk(posing.isListening)
})
