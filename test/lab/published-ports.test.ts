import { join } from 'node:path'
import t from 'tap'
import { lacking } from '../../src/lab/namespace.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { FastPathMachine } from '../bench/fast-path.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/**
 * Docker sends what goes to a published port of any address of this machine to the container that has it; VIPs are such addresses.
 */
const skip = (await lacking()) ?? (hasTool('curl') ? false : 'needs curl')

const PORT = 8080
const [PUBLISHED, ELSEWHERE] = [9_999, 9_053]
/** As Docker's own, for programs of the machine and for what comes in. */
const DOCKER = `table ip nat {
  chain DOCKER {
    tcp dport { 53, ${PORT} } dnat to 127.0.0.1:${PUBLISHED}
    udp dport 53 dnat to 127.0.0.1:${ELSEWHERE}
  }
  chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
  chain PREROUTING { type nat hook prerouting priority -100; fib daddr type local jump DOCKER; }
}`
const server = (text: string, port: string, host: string) =>
  `require('http').createServer((request, response) => response.end('${text}')).listen(${port}, ${host})`
/** Such a container of somebody else's, on a network of its own. */
const NEIGHBOUR = `ip link add neigh0 type veth peer name eth0 netns $1
ip address add 172.31.253.1/24 dev neigh0
ip link set neigh0 up`
const INSIDE = `ip address add 172.31.253.2/24 dev eth0
ip link set eth0 up
ip route add default via 172.31.253.1`

t.setTimeout(200_000)

for (const args of [['--fast-path'], []]) {
  t.test(`a port that Docker publishes takes no flow to a VIP: ${args.join() || 'user space'}`, { skip }, async (t) => {
    const config = join(t.testdir({ 'config.yaml': 'agent: { interceptInterfaces: [neigh0] }\n' }), 'config.yaml')
    await using machine = await FastPathMachine.start({ args: [...args, '--config', config] })
    const { host } = machine
    await using _published = host.spawn([process.execPath, '-e', server('published', String(PUBLISHED), `'127.0.0.1'`)])
    await host.text(['nft', DOCKER])
    const echo = {
      microservice_name: 'echo',
      microservice_namespace: 'prod',
      virtualization: 'process',
      cmd: [process.execPath, '-e', server('mesh', 'process.env.PORT', 'process.env.HOST')],
      code: '',
      port: String(PORT),
      replicas: 2,
    }
    await machine.apply([echo], 2)
    const curl = async (where: string[], name: string) => {
      const said = await host.exec([...where, 'curl', '-s', '--max-time', '5', `http://${name}:${PORT}/`])
      return said.stdout || `code ${said.code}`
    }
    for (const choice of ['any.rr', 'any.least']) {
      const name = `shop.acme.echo.prod.${choice}.local`
      t.equal(await curl([], name), 'mesh', `${choice}, by name`)
    }
    await using neighbour = host.spawn(['unshare', '--net', 'sleep', '600'])
    await host.text(['sh', '-c', `sleep 0.2; ${NEIGHBOUR}`, 'sh', String(neighbour.pid)])
    const inside = ['nsenter', `--net=/proc/${neighbour.pid}/ns/net`]
    await host.text([...inside, 'sh', '-c', INSIDE])
    const fromInside = () => curl(inside, 'shop.acme.echo.prod.any.least.local')
    await until(async () => (await fromInside()) !== 'code 6', 'the interface is known to the name server')
    t.equal(await fromInside(), 'mesh', 'from an interface that may call')
  })
}
