import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { RootClient } from '../../src/client/root-client.ts'
import { mesh, sla } from './mesh.ts'
import { ask } from './v1.ts'

/* What only the owner of a mesh does: secrets, join tokens, the authority. And how the client asks. */

t.test('secrets, join tokens and the authority, each answer as the document says', async (t) => {
  await using world = await mesh()
  const post = (path: string, body: unknown, headers = {}) => ask(world, path, { method: 'POST', body, headers })
  const remove = (path: string) => ask(world, path, { method: 'DELETE' })
  const value = Buffer.from('hunter2').toString('base64')
  const secret = { name: 'shop.acme.db', value }
  t.same((await post('/v1/secrets', secret)).body, { name: 'shop.acme.db', result: 'created' })
  t.match(await post('/v1/secrets', secret), { status: 400, body: { code: 'USAGE', remedy: String } })
  const key = { 'idempotency-key': 'k1' }
  t.equal((await post('/v1/secrets', { ...secret, replace: true }, key)).body.result, 'replaced')
  t.equal(
    (await post('/v1/secrets', { ...secret, name: 'shop.acme.a' }, key)).body.result,
    'created',
    'the key is not kept',
  )
  t.equal((await post('/v1/secrets', { ...secret, value: 'no base64!' })).status, 400)
  t.equal((await post('/v1/secrets', { ...secret, name: 'shop' })).status, 400)
  const { body } = await ask(world, '/v1/secrets?limit=1&name=shop.acme')
  t.match(body, { items: [{ name: 'shop.acme.a', bytes: 7, usedBy: [] }], next: String })
  t.notMatch(JSON.stringify(body), value)
  t.match((await ask(world, `/v1/secrets?cursor=${body.next}`)).body.items, [{ name: 'shop.acme.db' }])
  t.same((await remove('/v1/secrets/shop.acme.a')).body, { deleted: ['shop.acme.a'] })
  t.equal((await remove('/v1/secrets/shop.acme.a')).status, 404)

  const token = (await post('/v1/join-tokens', { role: 'node' }, key)).body
  t.match(token, { token: String, expiresAt: Number, command: 'hedgerow agent --token-file FILE' })
  t.not((await post('/v1/join-tokens', { role: 'node' }, key)).body.token, token.token, 'never the same twice')
  t.equal((await post('/v1/join-tokens', { role: 'cluster', cluster: 'west', ttlSeconds: 60 })).status, 200)
  t.equal((await post('/v1/join-tokens', { role: 'cluster' })).status, 400, 'it has no name')
  t.equal((await post('/v1/join-tokens', { role: 'node', cluster: 'none' })).status, 404)
  t.equal((await post('/v1/join-tokens', { role: 'king' })).status, 400)

  t.match((await ask(world, '/v1/authority')).body, { step: 'steady', behind: [] })
  t.match(await post('/v1/authority/retire', {}), { status: 409, body: { code: 'ROTATION_REFUSED' } })
  t.match((await post('/v1/authority/rotate', undefined)).body, { signs: String, members: Number })
})

t.test('the client keeps its connection, and asks again where the root has closed it', async (t) => {
  await using world = await mesh({ clusters: [] })
  const { hostname, port } = new URL(world.credential.url)
  const sockets: Socket[] = []
  const between = createServer((socket) => {
    const onward = connect(Number(port), hostname)
    sockets.push(socket)
    for (const end of [socket, onward]) end.on('error', () => undefined)
    socket.pipe(onward).pipe(socket)
  }).listen(0, '127.0.0.1')
  t.teardown(() => between.close())
  await once(between, 'listening')
  const url = `https://127.0.0.1:${(between.address() as AddressInfo).port}`
  const root = new RootClient({ ...world.credential, url })
  const services = Array.from({ length: 3 }, (_, i) => sla({ microservice_name: `s${i}`, replicas: 0 }))
  for (const body of services) await root.ask('POST', '/v1/apps', { body })
  const changed = sockets.length
  t.equal(changed, 3, 'a change has a connection of its own')
  t.equal((await root.all('/v1/services', {}, { most: 2 })).length, 2)
  t.equal((await root.all('/v1/services', {})).length, 3)
  t.match(await root.ask('GET', '/v1/status', {}), { services: 3 })
  t.equal(sockets.length, changed + 1, 'questions share one')
  for (const socket of sockets) socket.destroy()
  t.match(await root.ask('GET', '/v1/status', {}), { services: 3 }, 'asked again')
  await t.rejects(root.ask('GET', '/v1/services/{name}', { path: { name: 'none' } }), { code: 'SERVICE_UNKNOWN' })
  const logs = root.text('/v1/instances/{name}/logs', { path: { name: 'none' } }, AbortSignal.timeout(30_000))
  await t.rejects(
    (async () => {
      for await (const _ of logs) t.fail('there is none')
    })(),
    { code: 'INSTANCE_UNKNOWN' },
  )
})
