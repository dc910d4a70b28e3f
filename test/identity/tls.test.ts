import { once } from 'node:events'
import { createServer as createHttps, request } from 'node:https'
import { connect as connectTcp, createServer as createTcp, type AddressInfo, type Server } from 'node:net'
import { duplexPair, PassThrough, type Duplex } from 'node:stream'
import { connect, createServer, type TlsOptions } from 'node:tls'
import t from 'tap'
import { explain, isMeshError } from '../../src/core/errors.ts'
import type { Identity } from '../../src/core/identity/contract.ts'
import { CALLED_ALPN, connectSecure, createAcceptor, isPrompt, TUNNEL_ALPN } from '../../src/core/identity/peer-tls.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import { clientOptions, fetchCa, principalOf, serverOptions, tend, verifyServer } from '../../src/core/identity/tls.ts'
import { forge, TestMesh, wear, type Claim } from './mesh.ts'
import { heard } from '../support/heard.ts'

await using mesh = await TestMesh.create()
await using foreign = await TestMesh.create()
const core = await mesh.cluster('core')
const edge = await mesh.cluster('edge')
const root = await mesh.root()
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const forever = new AbortController().signal

const name = (path: string) => [{ type: 'url' as const, value: `spiffe://${mesh.mesh}/${path}` }]
const nodeName = (node: string, cluster = 'edge') => `O=${mesh.mesh}, OU=${cluster}, CN=${node}`
const clusterName = (cluster: string) => `O=${mesh.mesh}, OU=cluster, CN=${cluster}`
const asEdge: Claim = { key: edge.key, chain: edge.chain }
const foreignEdge = await foreign.cluster('edge')
const subCa = await forge({ subject: clusterName('core'), names: name('cluster/core'), isCa: true, by: asEdge })
const copyOfCore = await forge({ subject: clusterName('core'), names: name('cluster/core'), isCa: true })
const n2Name = { subject: nodeName('n2'), names: name('cluster/edge/node/n2') }
const inCore = { subject: nodeName('n2', 'core'), names: name('cluster/core/node/n2') }
const DAY_MS = 86_400_000

interface Row {
  why: string
  claim: Claim
  /** The node id it claims. */
  claims?: string
}

/** Who holds the key of cluster `edge` (or of a node) writes these; each claims to be a node and must not pass for one. */
const FORGERIES: readonly Row[] = [
  { why: 'signed by itself', claim: await forge(n2Name) },
  { why: 'signed by itself, sending the real intermediate', claim: await forge({ ...n2Name, sends: edge.chain }) },
  { why: "another mesh's node of that name", claim: await foreign.node(foreignEdge, 'n2') },
  { why: "our names, another mesh's authority", claim: await forge({ ...n2Name, by: foreignEdge }) },
  { why: 'expired', claim: await forge({ ...n2Name, from: -2 * DAY_MS, until: -60_000, by: asEdge }) },
  { why: 'not valid yet', claim: await forge({ ...n2Name, from: DAY_MS, until: 2 * DAY_MS, by: asEdge }) },
  { why: 'a node of another cluster', claim: await forge({ ...inCore, by: asEdge }), claims: 'core/n2' },
  {
    why: "a node of another cluster, that cluster's name as issuer",
    claim: await forge({ ...inCore, by: { ...asEdge, name: clusterName('core') }, sends: core.chain }),
    claims: 'core/n2',
  },
  {
    why: 'a node of another cluster, under a certificate that looks like its own',
    claim: await forge({ ...inCore, by: copyOfCore, sends: `${copyOfCore.chain}\n${core.chain}\n${edge.chain}` }),
    claims: 'core/n2',
  },
  {
    why: 'a node of another cluster, under a CA of our own',
    claim: await forge({ ...inCore, by: subCa }),
    claims: 'core/n2',
  },
  { why: 'a cluster posing as a node', claim: edge },
  { why: 'the root posing as a node', claim: root },
  { why: 'signed by a node', claim: await forge({ ...n2Name, by: n1 }) },
  { why: 'a node that is a CA', claim: await forge({ ...n2Name, isCa: true, by: asEdge }) },
  {
    why: 'two names',
    claim: await forge({ ...n2Name, names: [...n2Name.names, ...name('cluster/edge/node/n3')], by: asEdge }),
  },
  {
    why: 'a host name beside the name',
    claim: await forge({ ...n2Name, names: [...n2Name.names, { type: 'dns', value: 'localhost' }], by: asEdge }),
  },
  {
    why: 'a host name that reads like a name',
    claim: await forge({ ...n2Name, names: [{ type: 'dns', value: `x, URI:${n2Name.names[0]?.value}` }], by: asEdge }),
  },
  { why: 'no name', claim: await forge({ subject: n2Name.subject, by: asEdge }) },
  {
    why: 'the right path in another mesh',
    claim: await forge({
      ...n2Name,
      names: [{ type: 'url', value: `spiffe://${foreign.mesh}/cluster/edge/node/n2` }],
      by: asEdge,
    }),
  },
]

/** Written by `edge` too: higher than a node. */
const CLIMBERS: readonly Row[] = [
  {
    why: 'a cluster calls itself the root',
    claim: await forge({ subject: `O=${mesh.mesh}, CN=root`, names: name('root'), by: asEdge }),
  },
  {
    why: "a cluster calls itself the root, with the authority's name as issuer",
    claim: await forge({
      subject: `O=${mesh.mesh}, CN=root`,
      names: name('root'),
      by: { ...asEdge, name: `O=${mesh.mesh}, CN=mesh authority` },
    }),
  },
  { why: 'a cluster calls itself another cluster', claim: subCa },
]

const UNDERLAYS: ReadonlyArray<{ why: string; pair: () => Promise<[Duplex, Duplex]> }> = [
  { why: 'over a socket', pair: socketPair },
  { why: 'over a stream', pair: async () => duplexPair() },
]

for (const { why: where, pair } of UNDERLAYS) {
  t.test(`two nodes meet ${where}`, async (t) => {
    using acceptor = createAcceptor(n2)
    const [near, far] = await pair()
    const [dialled, { peer, stream }] = await Promise.all([
      connectSecure(near, n1, 'edge/n2', forever),
      acceptor.accept(far),
    ])
    t.equal(peer, 'edge/n1')
    t.equal(dialled.getProtocol(), 'TLSv1.3')
    // half-close: one direction ends, the other goes on
    dialled.end('question')
    t.equal(await read(stream), 'question')
    stream.end('answer')
    t.equal(await read(dialled), 'answer')
  })

  t.test(`whether the other end ${where} keeps its promises is known from TLS`, async (t) => {
    using acceptor = createAcceptor(n2)
    for (const alpn of [TUNNEL_ALPN, CALLED_ALPN] as const) {
      const [near, far] = await pair()
      const [dialled, { stream, isCalled }] = await Promise.all([
        connectSecure(near, n1, 'edge/n2', forever, alpn),
        acceptor.accept(far),
      ])
      t.ok(isPrompt(dialled) && isPrompt(stream), `${alpn}: both speak it`)
      t.equal(isCalled, alpn === CALLED_ALPN)
      const [old, here] = await pair()
      const before = connect({ ...credentials(n1), socket: old, ALPNProtocols: [alpn], rejectUnauthorized: false })
      const accepted = await acceptor.accept(here)
      t.equal(accepted.isCalled, alpn === CALLED_ALPN)
      t.notOk(isPrompt(accepted.stream), `${alpn}: one that does not`)
      for (const end of [dialled, stream, before, accepted.stream]) end.on('error', () => undefined).destroy()
    }
    t.notOk(isPrompt(new PassThrough()), 'a stream without a socket is not prompt')
  })

  t.test(`accepting ${where} refuses`, async (t) => {
    using acceptor = createAcceptor(n2)
    for (const { why, claim } of [...FORGERIES, ...CLIMBERS]) {
      const [near, far] = await pair()
      const client = connect({
        ...credentials(claim),
        socket: near,
        ALPNProtocols: [TUNNEL_ALPN],
        rejectUnauthorized: false,
      })
      client.on('error', () => undefined)
      client.write('something that must not be read')
      await t.rejects(acceptor.accept(far), { code: 'PEER_REFUSED' }, why)
      t.ok(far.destroyed, `${why}: closed`)
      near.destroy()
    }
    await t.test('no certificate', async (t) => {
      const [near, far] = await pair()
      connect({ socket: near, ALPNProtocols: [TUNNEL_ALPN], rejectUnauthorized: false }).on('error', () => undefined)
      await t.rejects(acceptor.accept(far), { code: 'PEER_REFUSED' })
      near.destroy()
    })
    await t.test('another protocol inside TLS', async (t) => {
      for (const ALPNProtocols of [undefined, ['h2']]) {
        const [near, far] = await pair()
        const options = { ...credentials(n1), socket: near, rejectUnauthorized: false }
        connect(ALPNProtocols === undefined ? options : { ...options, ALPNProtocols }).on('error', () => undefined)
        await t.rejects(acceptor.accept(far), { code: 'PEER_REFUSED' })
        near.destroy()
      }
    })
    await t.test('TLS 1.2, and no TLS', async (t) => {
      const [near, far] = await pair()
      connect({ ...credentials(n1), socket: near, maxVersion: 'TLSv1.2', rejectUnauthorized: false }).on(
        'error',
        () => undefined,
      )
      await t.rejects(acceptor.accept(far), { code: 'PEER_REFUSED' })
      const [other, plain] = await pair()
      other.write('GET / HTTP/1.1\r\n\r\n')
      await t.rejects(acceptor.accept(plain), { code: 'PEER_REFUSED' })
      near.destroy()
      other.destroy()
    })
  })

  t.test(`dialling ${where} refuses`, async (t) => {
    for (const { why, claim, claims = 'edge/n2' } of [...FORGERIES, ...CLIMBERS]) {
      using acceptor = createAcceptor(wear(claim, n2))
      const [near, far] = await pair()
      const accepting = acceptor.accept(far).catch(() => undefined)
      await t.rejects(connectSecure(near, n1, claims, forever), { code: 'PEER_REFUSED' }, why)
      t.ok(near.destroyed, `${why}: closed`)
      far.destroy()
      await accepting
    }
    await t.test('the right mesh, another node', async (t) => {
      using acceptor = createAcceptor(n2)
      const [near, far] = await pair()
      const accepting = acceptor.accept(far).catch(() => undefined)
      const refused = { code: 'PEER_REFUSED', details: { node: 'edge/n3', answered: 'edge/n2' } }
      await t.rejects(connectSecure(near, n1, 'edge/n3', forever), refused)
      far.destroy()
      await accepting
    })
    await t.test('a server that is no tunnel', async (t) => {
      const server = createServer({ ...serverOptions(n2, { requestClient: true }) })
      const [near, far] = await pair()
      server.emit('connection', far)
      await t.rejects(connectSecure(near, n1, 'edge/n2', forever), {
        code: 'PEER_REFUSED',
        details: { reason: 'not a tunnel' },
      })
      far.destroy()
    })
  })
}

t.test('what the forger writes is refused for its content only: the honest one passes', async (t) => {
  const honest = wear(await forge({ ...n2Name, by: asEdge }), n2)
  using acceptor = createAcceptor(honest)
  const [near, far] = duplexPair()
  const [, { peer }] = await Promise.all([connectSecure(near, honest, 'edge/n2', forever), acceptor.accept(far)])
  t.equal(peer, 'edge/n2')
})

t.test('a handshake nobody answers ends with its signal', async (t) => {
  const [near, far] = duplexPair()
  const give = new AbortController()
  const connecting = connectSecure(near, n1, 'edge/n2', give.signal)
  give.abort(new Error('changed my mind'))
  await t.rejects(connecting, { code: 'PEER_REFUSED', cause: { message: 'changed my mind' } })
  t.ok(near.destroyed, 'the connection is closed')
  await t.rejects(connectSecure(far, n1, 'edge/n2', give.signal), { code: 'PEER_REFUSED' }, 'aborted before')
})

t.test('handshakes under way at once are bounded: the one that takes longest makes room', async (t) => {
  using acceptor = createAcceptor(n2)
  const pairs = Array.from({ length: 256 }, () => duplexPair())
  const outcomes = Promise.allSettled(pairs.map(([, far]) => acceptor.accept(far)))
  const [near, far] = duplexPair()
  const [, { peer }] = await Promise.all([connectSecure(near, n1, 'edge/n2', forever), acceptor.accept(far)])
  t.equal(peer, 'edge/n1', 'who speaks comes in beside as many as say nothing')
  t.same(
    pairs.map(([, far]) => far.destroyed),
    pairs.map((_pair, number) => number === 0),
    'instead of the first of them, and of no other',
  )
  for (const [, far] of pairs) far.destroy()
  t.ok(
    (await outcomes).every(({ status }) => status === 'rejected'),
    'every handshake fails when its other end goes',
  )
})

t.test('each handshake belongs to the connection it ran on', async (t) => {
  using acceptor = createAcceptor(n2)
  await Promise.all(
    Array.from({ length: 12 }, async (_, number) => {
      const [near, far] = number % 2 === 0 ? duplexPair() : await socketPair()
      const accepting = acceptor.accept(far)
      const client = await connectSecure(
        near,
        number % 3 === 0 ? n1 : await mesh.node(core, `n${number}`),
        'edge/n2',
        forever,
      )
      client.write(String(number))
      const { peer, stream } = await accepting
      t.equal(peer, number % 3 === 0 ? 'edge/n1' : `core/n${number}`)
      const data = await heard(stream)
      t.equal(data.toString(), String(number))
      client.destroy()
      stream.destroy()
    }),
  )
})

t.test('an https server knows who asks', async (t) => {
  await using site = await listen(root)
  t.equal(await ask(site, { trust: n1 }), printPrincipal(n1.principal))
  t.equal(await ask(site, { trust: core }), printPrincipal(core.principal))
  t.equal(await ask(site, { trust: root }), printPrincipal(root.principal))
  t.equal(await ask(site, { trust: { ca: mesh.ca } }), 'UNAUTHENTICATED')
  for (const { why, claim } of [...FORGERIES, ...CLIMBERS]) {
    if (claim === edge || claim === root) continue // honest here
    t.equal(await ask(site, { trust: wear(claim, n1) }), 'PEER_REFUSED', why)
  }
})

t.test('clients know which server answers', async (t) => {
  await using atRoot = await listen(root)
  t.equal(await ask(atRoot, { trust: n1, expected: ({ role }) => role === 'root' }), printPrincipal(n1.principal))
  await t.rejects(ask(atRoot, { trust: n1, expected: ({ role }) => role === 'cluster' }), { code: 'PEER_REFUSED' })
  await using atNode = await listen(n2)
  await t.rejects(ask(atNode, { trust: n1 }), { code: 'PEER_REFUSED' }, 'a node is no server, unless it is expected')
  t.equal(await ask(atNode, { trust: n1, expected: ({ role }) => role === 'node' }), printPrincipal(n1.principal))
  for (const { why, claim } of [...FORGERIES, ...CLIMBERS]) {
    if (claim === edge || claim === root) continue
    await using forged = await listen(wear(claim, n2))
    await t.rejects(ask(forged, { trust: n1, expected: () => true }), why)
  }
  await using abroad = await listen(await foreign.root())
  await t.rejects(ask(abroad, { trust: n1, expected: () => true }), 'another mesh')
})

t.test('what a client sends waits until the server has proved itself', async (t) => {
  const heard: string[] = []
  await using forged = await listen(wear(edge, n2), heard)
  await t.rejects(ask(forged, { trust: { ca: mesh.ca }, expected: ({ role }) => role === 'root' }), {
    code: 'PEER_REFUSED',
  })
  t.same(heard, [])
})

t.test('a check after the handshake', async (t) => {
  await using site = await listen(edge)
  const socket = connect({ ...clientOptions(n1), host: '127.0.0.1', port: site.port })
  await once(socket, 'secureConnect')
  t.doesNotThrow(() => verifyServer(({ role }) => role === 'cluster')(socket))
  t.throws(() => verifyServer(({ role }) => role === 'root')(socket), { code: 'PEER_REFUSED' })
  t.same(principalOf(socket), edge.principal, 'asked again and again, the same')
  socket.destroy()
  t.throws(() => principalOf(duplexPair()[0]), { code: 'UNAUTHENTICATED' }, 'no TLS at all')
})

t.test('a session is never resumed', async (t) => {
  await t.test('our servers do not offer it: the certificate is asked for again', async (t) => {
    await using site = await listen(root)
    const ticket = await ticketFrom(site.port)
    const again = connect({
      host: '127.0.0.1',
      port: site.port,
      session: ticket,
      ca: mesh.ca,
      checkServerIdentity: () => undefined,
    })
    await once(again, 'secureConnect')
    t.notOk(again.isSessionReused(), 'the second connection makes a session of its own')
    again.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    t.match(await read(again), /UNAUTHENTICATED$/, 'the ticket brings no identity')
  })

  await t.test('a server that offers it: refused', async (t) => {
    const offering = { ...serverOptions(root, { requestClient: true }), secureOptions: 0 }
    await using plain = await listen(root, [], offering)
    t.equal(await resume(plain.port), 'PEER_REFUSED')
    await using tended = await listen(root, [], offering, true)
    t.equal(await resume(tended.port), '', 'cut before anything is read')
  })

  async function resume(port: number): Promise<string> {
    const again = connect({
      host: '127.0.0.1',
      port,
      session: await ticketFrom(port),
      ca: mesh.ca,
      checkServerIdentity: () => undefined,
    })
    again.on('error', () => undefined)
    await once(again, 'secureConnect')
    t.ok(again.isSessionReused(), 'the client did resume')
    again.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    return (await read(again)).split('\r\n').at(-1) ?? ''
  }

  async function ticketFrom(port: number): Promise<Buffer> {
    const { promise, resolve } = Promise.withResolvers<Buffer>()
    const first = connect({ ...clientOptions(n1), host: '127.0.0.1', port })
    first.on('session', resolve)
    first.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
    t.match(await read(first), /node\/n1$/)
    return promise
  }
})

t.test('a renewed certificate is used for the next connection', async (t) => {
  const listeners = new Set<() => void>()
  const successor = await mesh.root()
  let current = root
  const renewing: Identity = {
    principal: root.principal,
    ca: root.ca,
    get chain() {
      return current.chain
    },
    get key() {
      return current.key
    },
    notAfter: root.notAfter,
    revocations: root.revocations,
    secureContext: () => current.secureContext(),
    onRenewed: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
  const site = await listen(renewing)
  const before = await serialAt(site.port)
  current = successor
  for (const listener of listeners) listener()
  t.not(await serialAt(site.port), before)
  await site[Symbol.asyncDispose]()
  t.equal(listeners.size, 0, 'nothing is left listening')

  async function serialAt(port: number) {
    const socket = connect({ ...clientOptions(n1), host: '127.0.0.1', port })
    await once(socket, 'secureConnect')
    const { serialNumber } = socket.getPeerCertificate()
    socket.destroy()
    return serialNumber
  }
})

t.test("the authority's certificate, fetched by its fingerprint", async (t) => {
  for (const server of [root, edge, n2]) {
    await using site = await listen(server)
    const url = `https://127.0.0.1:${site.port}`
    t.same(await fetchCa(url, mesh.authority.fingerprint, forever), mesh.ca)
    await t.rejects(fetchCa(url, foreign.authority.fingerprint, forever), { code: 'TOKEN_REFUSED' })
    await t.rejects(fetchCa(url, '', forever), { code: 'TOKEN_REFUSED' })
  }
  const silent = createTcp().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`
  const give = new AbortController()
  silent.once('connection', (socket) => {
    give.abort(new Error('enough'))
    socket.destroy()
  })
  await t.rejects(fetchCa(url, mesh.authority.fingerprint, give.signal), { code: 'NOT_RUNNING' })
  silent.close()
  await t.rejects(fetchCa(url, mesh.authority.fingerprint, forever), { code: 'NOT_RUNNING' }, 'nobody there')
})

// ── what the tests stand on ──

function credentials({ key, chain }: Claim) {
  return { key, cert: chain }
}

async function socketPair(): Promise<[Duplex, Duplex]> {
  const server = createTcp({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const near = connectTcp({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [far] = (await once(server, 'connection')) as [Duplex]
  server.close()
  return [near.on('error', () => undefined), far.on('error', () => undefined)]
}

async function read(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await new Promise<void>((resolve) => {
    stream.once('end', resolve)
    stream.once('close', resolve)
  })
  return Buffer.concat(chunks).toString()
}

interface Site extends AsyncDisposable {
  port: number
}

/** An https server that answers with whom it takes the asker for. */
async function listen(
  identity: Identity,
  heard: string[] = [],
  options: TlsOptions = serverOptions(identity, { requestClient: true }),
  tended = options.secureOptions !== 0,
): Promise<Site> {
  const server = createHttps(options, (request, response) => {
    heard.push(request.url ?? '')
    try {
      response.end(printPrincipal(principalOf(request.socket)))
    } catch (error) {
      response.end(isMeshError(error) ? error.code : explain(error))
    }
  })
  server.on('tlsClientError', () => undefined)
  const forget = tended ? tend(server, identity) : () => undefined
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      forget()
      server.closeAllConnections()
      await close(server)
    },
  }
}

function close(server: Server): Promise<unknown> {
  return new Promise((resolve) => server.close(resolve))
}

interface Question {
  trust: Parameters<typeof clientOptions>[0]
  expected?: Parameters<typeof clientOptions>[1]
}

function ask({ port }: Site, { trust, expected }: Question): Promise<string> {
  return new Promise((resolve, reject) => {
    request({ ...clientOptions(trust, expected), host: '127.0.0.1', port, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => resolve(Buffer.concat(chunks).toString()))
    })
      .on('error', reject)
      .end()
  })
}
