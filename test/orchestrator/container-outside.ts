import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readlinkSync } from 'node:fs'
import { Program, run, text } from '../../src/lab/program.ts'
import { until } from '../support/until.ts'

/*
 * What containers call outside the mesh: a machine behind this one, and a name server that knows it under every name of example.com.
 *
 *     container ─▶ name server of the agent ─▶ this one
 *         └─▶ bridge ─▶ this machine ─▶ web1 172.31.254.2 (a network of its own)
 */

export const OUTSIDE = '172.31.254.2'
/** An address of this machine, to which a name leads as well. */
export const THIS_MACHINE = '198.51.100.1'
/** Both answer. */
export const [LISTED_PORT, OTHER_PORT] = [8443, 8444]

const SERVER = `for (const port of [${LISTED_PORT}, ${OTHER_PORT}])
  require('http').createServer((request, response) => response.end('outside')).listen(port, '0.0.0.0')`
const ROUTER = `ip link add router1 type veth peer name web1 netns $1
ip address add 172.31.254.1/24 dev router1
ip link set router1 up
echo 1 > /proc/sys/net/ipv4/ip_forward`
const HOST = `ip link set lo up
ip address add ${OUTSIDE}/24 dev web1
ip link set web1 up
ip route add default via 172.31.254.1`

/** Beside this network. */
export async function machineOutside(): Promise<AsyncDisposable> {
  const own = readlinkSync('/proc/self/ns/net')
  const web = Program.start(['unshare', '--net', process.execPath, '-e', SERVER])
  const net = `/proc/${web.pid}/ns/net`
  await until(() => readlinkSync(net) !== own, 'a network of its own')
  await text(['sh', '-c', ROUTER, 'sh', String(web.pid)])
  await text(['nsenter', `--net=${net}`, 'sh', '-c', HOST])
  const ask = async () => (await run(['curl', '-s', `http://${OUTSIDE}:${LISTED_PORT}/`])).stdout
  await until(async () => (await ask()) === 'outside', 'the machine outside answers')
  return { [Symbol.asyncDispose]: () => web.stop() }
}

/** `address`: for the agent. */
export async function namesOutside(): Promise<AsyncDisposable & { address: string }> {
  const socket = createSocket('udp4').on('message', (question, { port, address }) => {
    socket.send(answerTo(question), port, address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return {
    address: `127.0.0.1:${socket.address().port}`,
    [Symbol.asyncDispose]: () => new Promise((resolve) => socket.close(() => resolve())),
  }
}

/** RFC 1035 §4.1: the header, the question again, and the address for the name that was asked for (a pointer to byte 12). */
function answerTo(question: Buffer): Buffer {
  const labels: string[] = []
  let at = 12
  for (let length = question.readUInt8(at); length > 0; length = question.readUInt8(at)) {
    labels.push(question.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const name = labels.join('.').toLowerCase()
  const isKnown = name.endsWith('example.com')
  const hasAddress = isKnown && question.readUInt16BE(at + 1) === 1
  const header = Buffer.alloc(12)
  question.copy(header, 0, 0, 2)
  header.writeUInt16BE(isKnown ? 0x8180 : 0x8183, 2)
  header.writeUInt16BE(1, 4)
  header.writeUInt16BE(hasAddress ? 1 : 0, 6)
  const address = name.startsWith('machine.') ? THIS_MACHINE : OUTSIDE
  const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split('.').map(Number)]
  return Buffer.concat([header, question.subarray(12, at + 5), Buffer.from(hasAddress ? record : [])])
}
