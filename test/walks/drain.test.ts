import { connect } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { Client } from '../proxy/world.ts'
import { program, wholeMesh, type Mesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** An instance that leaves takes no new flows, and keeps the old ones up to its drain time. */

/** Echoes lines behind its own id, for as long as the caller likes. */
const ECHO =
  "require('net').createServer({allowHalfOpen:true},s=>{s.on('error',()=>0);s.on('end',()=>s.end());" +
  "s.on('data',d=>s.write(process.env.HEDGEROW_INSTANCE+' '+d))}).listen(process.env.PORT,'127.0.0.1')"

const NAME = 'shop.acme.cart.prod'

async function call(mesh: Mesh, choice: string): Promise<Client> {
  const [host = ''] = await mesh.node('a').dns.resolve4(`${NAME}.${choice}.local`)
  const socket = connect({ host, port: 8080, allowHalfOpen: true })
  const client = new Client(socket)
  await once(socket, 'connect')
  await say(client, 'hello')
  return client
}

/** Says something and waits for all of its echo. */
async function say(client: Client, text: string): Promise<void> {
  const before = client.text.length
  client.socket.write(text)
  await until(() => client.text.length >= before + `${NAME}.0 ${text}`.length, `an echo of ${text}`)
}

const echo = (more: object) => program('cart', 2, { cmd: [process.execPath, '-e', ECHO], ...more })

t.test('scaled away: the long flow goes on, new ones go elsewhere, then the instance ends', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  await mesh.apply([echo({ drain_seconds: 60 })], 2)
  const long = await call(mesh, '1.pinned')
  await mesh.control.api.call('POST', `/services/${NAME}/scale`, { replicas: 1 })
  await until(
    async () => (await mesh.node('a').resolve(`${NAME}.any.rr.local`)).order.length === 1,
    'one is chosen from',
  )
  for (let flow = 0; flow < 4; flow++) {
    const next = await call(mesh, 'any.rr')
    t.match(next.text, new RegExp(`^${NAME}\\.0 `), 'new flows go to the one that stays')
    next.socket.destroy()
  }
  await say(long, 'still there?')
  t.match(long.text, `${NAME}.1 still there?`)
  t.ok(
    (await mesh.control.instances()).some(({ id }) => id === `${NAME}.1`),
    'it waits for its flow',
  )
  long.socket.end()
  await long.ended
  await until(async () => (await mesh.control.instances()).length === 1, 'then it is gone')
})

t.test('a flow that never ends is ended when the drain time is over', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  await mesh.apply([echo({ drain_seconds: 1 })], 2)
  const long = await call(mesh, '1.pinned')
  await mesh.control.api.call('POST', `/services/${NAME}/scale`, { replicas: 1 })
  await until(async () => (await mesh.control.instances()).length === 1, 'it is gone')
  await long.ended // as the program's end makes it: FIN, or RST for what it had not read
  t.match(long.text, `${NAME}.1 hello`)
})

t.test('renewed: one at a time, and flows that were open finish where they are', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  const on = (node: string) => ({ constraints: [{ type: 'direct', cluster: 'edge', node }], drain_seconds: 60 })
  await mesh.apply([echo(on('b'))], 2)
  const long = await call(mesh, 'any.rr')
  await mesh.apply([echo({ ...on('b'), environment: ['VERSION=2'] })])
  const running = async () => (await mesh.control.instances()).filter(({ state }) => state === 'running').length
  let lost = 0
  for (let flow = 0; flow < 20; flow++) {
    const next = await call(mesh, 'any.rr').catch(() => undefined)
    if (next === undefined) lost++
    next?.socket.destroy()
    await say(long, `${flow}`)
  }
  t.equal(lost, 0, 'every new flow found an instance')
  long.socket.end()
  await long.ended
  await until(async () => (await running()) === 2, 'both run again')
})
