import { join } from 'node:path'
import t from 'tap'
import { relayCredentials } from '../../src/agent/relays.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { nodeIdOf, printPrincipal } from '../../src/core/identity/principal.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Uplink } from '../../src/orchestrator/worker/uplink.ts'
import { Plane } from './plane.ts'
import { until } from '../support/until.ts'

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

/** A node that joined, with its link to the cluster: it says that it listens at `relays`, and keeps what it is `told`. */
async function linkedNode(name: string, relays: string[]) {
  const { identity, url } = await plane.member(name)
  const told: string[][] = []
  const facts = {
    id: idOf(identity),
    capacity: { memoryMb: 1, vcpus: 1, vgpus: 0, vtpus: 0, storageMb: 0 },
    runtimes: [] as string[],
    arch: 'amd64',
    addresses: [] as string[],
    labels: {},
    version: '0',
  } as const
  const worker = {
    assign: () => undefined,
    withdraw: () => false,
    cancel: () => undefined,
    keepOnly: () => undefined,
    reports: () => [],
    usage: async () => [],
    volumes: { list: async () => [], remove: async () => undefined },
    exec: () => Promise.reject(new Error('nothing runs here')),
    logs: async function* () {
      yield* []
    },
  }
  const onRelays = (urls: readonly string[]) => told.push([...urls])
  const parts = { urls: [url], identity, facts: () => ({ ...facts, relays }), worker, onRelays }
  const uplink = Uplink.start(parts, silentLog, metrics)
  await until(() => uplink.isUp && told.length > 0)
  return { identity, told, [Symbol.asyncDispose]: () => uplink[Symbol.asyncDispose]() }
}

const rowOf = async (name: string) => (await relayRows()).find(({ id }) => id === `edge/${name}`)

t.test('a stand-alone relay joins its cluster, which announces it to its nodes and lists it', async (t) => {
  const config = await plane.relayConfig('r1')
  await using joined = await plane.relay(config, { token: await token({ role: 'relay', cluster: 'edge' }) })
  const { url } = joined.part
  const summary = { role: 'relay', name: 'r1', relay: `wss://${config.listen}/relay` }
  t.match(joined.summary(), summary, 'the summary names the relay and its address')
  await until(() => joined.part.isLinked())

  await using node = await linkedNode('n1', [url])
  const { relayUrl } = plane.cluster.part
  t.same(node.told.at(-1), [relayUrl, url], 'the cluster announces its own relay and the new one to its nodes')
  const second = await plane.relayConfig('r2')
  await using other = await plane.relay(second, { token: plane.cluster.part.relayToken() })
  await until(() => node.told.at(-1)?.includes(other.part.url) === true)
  t.pass('a relay that joins later is announced at once')

  await until(async () => (await rowOf('r1'))?.version !== undefined, 'r1 has said what it is')
  t.match(
    await relayRows(),
    [
      { id: 'edge', kind: 'cluster', url: relayUrl, condition: 'alive', nodes: 0 },
      { id: 'edge/r1', kind: 'stand-alone', url, condition: 'alive', nodes: 1, version: String },
      { id: 'edge/r2', kind: 'stand-alone', url: other.part.url, condition: 'alive', nodes: 0 },
    ],
    'the root lists the relays with the numbers of their nodes',
  )
})

t.test('a stand-alone relay cuts a revoked node, and remembers it when it starts again', async (t) => {
  const config = await plane.relayConfig('r5')
  const joined = await plane.relay(config, { token: plane.cluster.part.relayToken() })
  t.teardown(() => joined[Symbol.asyncDispose]())
  const { url } = joined.part
  await until(() => joined.part.isLinked())
  const relays = [url]
  await using node = await linkedNode('n5', relays)
  await using near = listener(url, node.identity)
  await using stranger = listener(url, await plane.identity('n2'))
  await until(() => near.isListening && stranger.isListening)
  t.same(joined.part.listening().toSorted(), ['edge/n2', 'edge/n5'], 'both nodes listen at the relay')
  t.ok((await near.measure()) > 0, 'a node measures its distance to the relay')

  await plane.api.call('DELETE', '/nodes/edge/n5')
  await until(() => !near.isListening)
  t.same(joined.part.listening(), ['edge/n2'], 'the revoked node is cut at the relay, the other is not')
  relays.length = 0

  await joined[Symbol.asyncDispose]()
  await until(async () => (await rowOf('r5'))?.condition === 'away', 'its link is down')
  t.match(await rowOf('r5'), { id: 'edge/r5', url }, 'a relay that is away is still announced to nodes')
  await using again = await plane.relay(config)
  await until(() => stranger.isListening)
  t.notOk(near.isListening, 'a relay that starts again remembers who was revoked')
  const health = again.summary()['health'] ?? ''
  const page = await (await fetch(`${health}/metrics`)).text()
  t.match(page, /hedgerow_relay_nodes_listening\{role="relay"\} 1/, 'its metric counts the one node that listens')
  t.equal((await fetch(`${health}/readyz`)).status, 200, 'it says that it is ready')
})

t.test('only a holder of a relay token may become a relay', async (t) => {
  const config = await plane.relayConfig('r3')
  await t.rejects(plane.relay(config), { code: 'TOKEN_INVALID' }, 'a node without a token is refused')
  const node = plane.cluster.part.nodeToken()
  await t.rejects(plane.relay(config, { token: node }), { code: 'TOKEN_REFUSED' }, 'a token for a node is refused')
  const [prefix, body = ''] = node.split('.')
  const content = JSON.parse(Buffer.from(body, 'base64url').toString()) as object
  const forged = `${prefix}.${Buffer.from(JSON.stringify({ ...content, role: 'relay' })).toString('base64url')}`
  await t.rejects(
    plane.relay(config, { token: forged }),
    { code: 'TOKEN_REFUSED' },
    'a token whose role was changed is refused',
  )
  const good = await token({ role: 'relay', cluster: 'edge' })
  const open = { ...config, listen: config.listen.replace('127.0.0.1', '0.0.0.0') }
  await t.rejects(
    plane.relay(open, { token: good }),
    { code: 'CONFIG_INVALID' },
    'an address that nobody can dial is refused',
  )
  await using relay = await plane.relay({ ...open, publicUrl: 'https://127.0.0.1:443' })
  t.equal(relay.part.url, 'wss://127.0.0.1:443/relay', 'the public address is the one it is known by')
  await until(() => relay.part.isLinked())
  const twice = await token({ role: 'relay', cluster: 'edge' })
  const same = plane.relay({ ...(await plane.relayConfig('r3')) }, { token: twice, dir: join(plane.dir, 'elsewhere') })
  const refused = { code: 'TOKEN_REFUSED', details: { reason: 'a relay of this name is connected' } }
  await t.rejects(same, refused, 'a second relay of the same name is refused')
})

t.test('a relay’s certificate is valid for relaying only', async (t) => {
  const config = await plane.relayConfig('r4')
  await using _relay = await plane.relay(config, { token: plane.cluster.part.relayToken() })
  const { HeldIdentity: Held } = await import('../../src/core/identity/held.ts')
  const identity = await Held.open(join(plane.dir, 'relay-r4', 'identity'))
  if (identity === undefined) throw new Error('it has none')
  t.match(
    printPrincipal(identity.principal),
    /^spiffe:\/\/hedgerow-[0-9a-f]{8}\/cluster\/edge\/relay\/r4$/,
    'its certificate names it as a relay of its cluster',
  )
  await using posing = listener(plane.cluster.part.relayUrl ?? '', identity)
  const { dialText } = await import('../../src/core/kit/websocket.ts')
  const { tls } = relayCredentials({ certificate: identity, egress: undefined })
  const asNode = dialText(`${plane.cluster.part.relayUrl}?listen`, { tls }, AbortSignal.timeout(30_000))
  await t.rejects(asNode, { code: 'REQUEST_FAILED', details: { status: 403 } }, 'it cannot listen as a node')
  t.notOk(posing.isListening, 'it does not listen at the relay of the cluster')
})
