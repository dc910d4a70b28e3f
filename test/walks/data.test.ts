import t from 'tap'
import { external, get, Origin, program, wholeMesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** The walk of a flow: a name is looked up, connected to, and answered by the instance that its policy chose. */

t.test('a semantic URL is answered by an instance on another node, over an encrypted carrier', async (t) => {
  await using origin = await Origin.start('cart')
  await using mesh = await wholeMesh(['here', 'there'])
  await mesh.apply([external('cart', origin, 'there')], 1)
  const here = mesh.node('here')

  const name = 'shop.acme.cart.prod.any.closest.local'
  t.match(await here.get(name), { status: 200, body: /^cart for / }, 'the name leads to the instance')
  t.match(await here.get('SHOP.acme.cart.Any.RR.internal'), { status: 200 }, 'the short form, any case, the other zone')
  t.match(await here.get('any.rr.cart.prod.shop.acme.local'), { status: 200 }, 'the reversed form')

  const trace = await here.trace(`${name}:8080`)
  t.match(
    trace,
    { ok: true, instance: 'shop.acme.cart.prod.0', node: 'edge/there', path: 'direct' },
    'the trace tells instance, node and path',
  )
  t.match(
    trace.steps.map(({ step }) => step),
    ['name', 'vip', 'permission', 'order', 'try', 'connected'],
    'the trace tells each step, in order',
  )
  t.match(
    await here.peers(),
    [{ node: 'edge/there', path: 'direct' }],
    'there is a direct carrier to the node of the instance',
  )

  const flow = (await here.flows()).find(({ ended }) => ended?.startsWith('closed'))
  t.match(
    flow,
    { caller: 'edge/here', instance: 'shop.acme.cart.prod.0', path: 'direct' },
    'the flow is listed with its caller, instance and path',
  )
  t.ok(flow !== undefined && flow.bytesSent > 0 && flow.bytesReceived > 0, 'bytes are counted both ways')
})

t.test('rr is exact, pinned is that one or none', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  await mesh.apply([program('cart', 3)], 3)
  const a = mesh.node('a')
  await a.resolve('shop.acme.cart.prod.any.rr.local')

  const counts = new Map<string, number>()
  for (let flow = 0; flow < 30; flow++) {
    const { body } = await a.get('shop.acme.cart.prod.any.rr.local')
    counts.set(body, (counts.get(body) ?? 0) + 1)
  }
  t.same([...counts.values()], [10, 10, 10], 'ten flows each')
  for (let flow = 0; flow < 5; flow++)
    t.equal(
      (await a.get('shop.acme.cart.prod.1.pinned.local')).body,
      'shop.acme.cart.prod.1',
      'the pinned instance answers each time',
    )

  await mesh.control.api.call('POST', '/services/shop.acme.cart.prod/scale', { replicas: 1 })
  await until(async () => (await a.resolve('shop.acme.cart.prod.any.rr.local')).order.length === 1, 'one is left')
  await t.rejects(a.get('shop.acme.cart.prod.2.pinned.local'), 'an instance that is gone has no name, or refuses')
  t.equal(
    (await a.get('shop.acme.cart.prod.any.rr.local')).body,
    'shop.acme.cart.prod.0',
    'the one instance that is left answers',
  )
})

t.test('names that are none say why', async (t) => {
  await using origin = await Origin.start('cart')
  await using mesh = await wholeMesh(['here'])
  await mesh.apply([external('cart', origin, 'here')], 1)
  const here = mesh.node('here')
  const rows = [
    { name: 'shop.acme.basket.prod.any.rr.local', why: 'an unknown service', code: 'SERVICE_UNKNOWN' },
    {
      name: 'shop.acme.cart.prod.any.closet.local',
      why: 'a wrong policy word',
      code: 'NAME_INVALID',
      reason: /closest/,
    },
    { name: 'shop.acme.cart.prod.7.pinned.local', why: 'an instance that does not exist', code: 'SERVICE_UNKNOWN' },
  ]
  for (const { name, why, code, reason = /./ } of rows) {
    await t.rejects(here.dns.resolve4(name), { code: 'ENOTFOUND' }, `${why}: NXDOMAIN`)
    await t.rejects(here.trace(`${name}:8080`), { code, details: { reason } }, `${why}: trace says why`)
  }
  t.match(
    await here.trace('shop.acme.cart.prod.any.rr.local:9'),
    {
      ok: false,
      steps: [{}, {}, { what: /does not serve port 9/ }],
    },
    'a port that is not served is told by the trace',
  )
})

t.test('who may not call is refused at both ends', async (t) => {
  await using origin = await Origin.start('vault')
  await using mesh = await wholeMesh(['here', 'there'])
  await mesh.apply([external('vault', origin, 'there', { allow: ['bank.acme'] })], 1)
  const here = mesh.node('here')
  await t.rejects(here.get('shop.acme.vault.prod.any.rr.local'), { code: 'ECONNRESET' }, 'the flow sees a reset')
  const trace = await here.trace('shop.acme.vault.prod.any.rr.local:8080')
  t.match(trace, { ok: false }, 'the trace fails too')
  t.match(
    trace.steps.at(-1)?.what,
    /not in the allow list/,
    'its last step says that the caller is not in the allow list',
  )
})

t.test(
  'a service’s choice of paths: its flows go through the relay beside a direct session, until it says otherwise',
  async (t) => {
    await using origin = await Origin.start('vault')
    await using other = await Origin.start('cart')
    await using mesh = await wholeMesh(['here', 'there'])
    const cart = external('cart', other, 'there')
    await mesh.apply([cart, external('vault', origin, 'there', { paths: 'relay-only' })], 2)
    const here = mesh.node('here')
    const pathOf = async (service: string) => {
      const trace = await here.trace(`shop.acme.${service}.prod.any.rr.local:8080`)
      t.match(
        await here.get(`shop.acme.${service}.prod.any.rr.local`),
        { status: 200 },
        `the service ${service} answers`,
      )
      return trace
    }
    t.match(await pathOf('cart'), { ok: true, path: 'direct' }, 'a service without a choice is reached directly')
    const ruled = await pathOf('vault')
    t.match(ruled, { ok: true, path: 'relayed' }, 'the service that asks for it is reached through the relay')
    t.match(
      ruled.steps.find(({ step }) => step === 'paths'),
      { what: 'the service asks for relay-only' },
      'the trace says what the service asks for',
    )
    t.match(
      await here.peers(),
      [{ path: 'direct', asidePaths: ['relayed'] }],
      'peers tell why there is a relayed carrier',
    )
    await mesh.apply([cart, external('vault', origin, 'there', { paths: 'direct-only' })], 2)
    const name = 'shop.acme.vault.prod.any.rr.local'
    await until(async () => (await here.trace(`${name}:8080`)).path === 'direct', 'the caller has heard of the change')
    // until the other node has, too, it refuses the path that it knows as forbidden
    await until(async () => (await here.get(name).catch(() => undefined))?.status === 200, 'and so has the other node')
  },
)

t.test('root, cluster and a restart of the node: names and flows go on', async (t) => {
  await using origin = await Origin.start('cart')
  await using mesh = await wholeMesh(['here', 'there'])
  await mesh.apply([external('cart', origin, 'there')], 1)
  const name = 'shop.acme.cart.prod.any.rr.local'
  t.match(await mesh.node('here').get(name), { status: 200 }, 'at first the name leads to the instance')

  await mesh.control.stopRoot()
  t.match(await mesh.node('here').get(name), { status: 200 }, 'without the root')
  await mesh.control.stopCluster()
  t.match(await mesh.node('here').get(name), { status: 200 }, 'without root and cluster')

  await mesh.stop('here')
  await mesh.start('here', {}, { isCutOff: true })
  t.match(await mesh.node('here').get(name), { status: 200 }, 'after a restart, from the saved table')
  await t.rejects(
    mesh.node('here').dns.resolve4('shop.acme.other.prod.any.rr.local'),
    { code: 'ESERVFAIL' },
    'what was never asked for cannot be known now',
  )
})

t.test('programs without the resolver use the proxies, with credentials', async (t) => {
  await using origin = await Origin.start('cart')
  await using mesh = await wholeMesh(['here', 'there'])
  await mesh.apply([external('cart', origin, 'there')], 1)
  const { HTTP_PROXY = '' } = await mesh.node('here').proxies()
  const proxy = new URL(HTTP_PROXY)
  const url = 'http://shop.acme.cart.prod.any.rr.local:8080/'
  const through = (credentials: string | undefined, path: string) =>
    new Promise<number>((resolve, reject) => {
      const headers = {
        host: new URL(path).host,
        ...(credentials === undefined
          ? {}
          : { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` }),
      }
      import('node:http').then(
        ({ request }) =>
          request({ host: proxy.hostname, port: proxy.port, path, headers, agent: false }, (response) => {
            response.resume()
            resolve(response.statusCode ?? 0)
          })
            .on('error', reject)
            .end(),
        reject,
      )
    })
  t.equal(
    await through(`${proxy.username}:${proxy.password}`, url),
    200,
    'with the credentials of the node the proxy answers',
  )
  t.equal(await through(undefined, url), 407, 'without credentials it asks for them')
  t.equal(await through('node:wrong', url), 407, 'with wrong credentials it asks for them')
  t.equal(
    await through(`${proxy.username}:${proxy.password}`, 'http://192.0.2.1/'),
    403,
    'there is no way out through it',
  )
  t.match(
    await get({ host: '127.0.0.1', port: origin.port, name: 'x' }),
    { status: 200 },
    'the instance itself is still there',
  )
})
