import t from 'tap'
import { labContract } from '../contracts/lab.ts'
import { Engine, lackingDockerd } from '../docker-engine.ts'
import { lab } from './lab.ts'
import { lackingFor } from './lacking.ts'
import { lacking } from './namespace.ts'

t.setTimeout(175_000)
const skip = (await lacking()) ?? lackingDockerd() ?? false
const engine = skip === false ? await Engine.start() : undefined
t.teardown(() => engine?.[Symbol.asyncDispose]())

t.test('a lab of containers', { skip }, (t) => labContract('docker', t))

t.test('a host is what its container is', { skip }, async (t) => {
  const folder = t.testdir({ page: 'hello from the file' })
  const image = { entrypoint: ['sh', '-c'], command: ['id -u > /tmp/who; echo $WORD > /tmp/word; exec sleep 600'] }
  await using net = await lab({
    backend: 'docker',
    publics: ['a', 'b'],
    containers: {
      a: { ...image, env: { WORD: 'seen' }, volumes: [`${folder}:/pages:ro`], user: '1000' },
      b: { capabilities: ['NET_ADMIN'] },
    },
  })
  const [a, b] = [net.host('a'), net.host('b')]
  t.equal(await a.text(['cat', '/pages/page', '/tmp/word', '/tmp/who']), 'hello from the fileseen\n1000\n')
  t.equal((await a.text(['hostname'])).trim(), 'a')
  const mtu = (host: typeof a) => host.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1400'])
  t.not((await mtu(a)).code, 0, 'a container may do what containers may')
  t.equal((await mtu(b)).code, 0, 'unless it is given more')

  await b.text(['sh', '-c', 'echo kept > /root/file'])
  await b.lose()
  await b.heal()
  t.equal(await b.text(['cat', '/root/file']), 'kept\n', 'its files outlive a loss of power')
})

t.test('what does not start is told, and taken back', { skip }, async (t) => {
  const ends = { entrypoint: ['sh', '-c'], command: ['echo no such thing; exit 3'] }
  await t.rejects(
    lab({ backend: 'docker', publics: ['a', 'b'], containers: { b: ends } }),
    /host b: its container \(hedgerow-lab:\w+\) ended at once with code 3[^]*no such thing/,
  )
  await t.rejects(lab({ backend: 'docker', publics: ['a'], image: 'NOT/an/image' }), /host a: docker run: .*reference/)
  t.same(await engine?.containers(), [])
})

t.test('an engine that does not answer', { skip }, async (t) => {
  const host = process.env['DOCKER_HOST']
  t.equal(await lackingFor('docker'), undefined)
  process.env['DOCKER_HOST'] = 'unix:///nowhere.sock'
  t.match(await lackingFor('docker'), /needs a Docker engine that answers \(.*nowhere\.sock/)
  process.env['DOCKER_HOST'] = host
})
