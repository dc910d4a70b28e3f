import { test } from 'tap'
import { documentWith, faultsOf } from './sla-documents.ts'
import { specOf } from './specs.ts'

interface Written {
  port?: unknown
  ports?: unknown
}

const tcp = (port: number, target = port) => ({ port, target, protocol: 'tcp' as const })
const udp = (port: number, target = port) => ({ port, target, protocol: 'udp' as const })
/** What was written, short enough for a line of the report. */
const shown = (service: Written) => JSON.stringify(service).slice(0, 60)

test('ports are read in every form they are written in', async (t) => {
  const rows: ({ why: string; found: object[] } & Written)[] = [
    { why: 'a number in quotes is a TCP port', port: '80', found: [tcp(80)] },
    { why: 'a number is a TCP port', port: 80, found: [tcp(80)] },
    { why: 'an empty text is no port', port: '', found: [] },
    { why: 'after the colon stands the port of the program', port: '80:60', found: [tcp(80, 60)] },
    { why: 'the protocol can be written', port: '6080:60/tcp', found: [tcp(6080, 60)] },
    { why: 'a semicolon separates ports', port: '53:53/udp;80:8080', found: [udp(53), tcp(80, 8080)] },
    { why: 'spaces, capitals and a last semicolon do not matter', port: ' 80 ; 81/TCP; ', found: [tcp(80), tcp(81)] },
    { why: 'one number may be a port of both protocols', port: '53/udp;53/tcp', found: [udp(53), tcp(53)] },
    {
      why: 'a list may mix numbers, texts and objects',
      ports: [80, '81:82', { port: 83, name: 'HTTP', protocol: 'udp' }],
      found: [tcp(80), tcp(81, 82), { ...udp(83), name: 'http' }],
    },
    {
      why: 'port and ports are read together',
      port: '80',
      ports: [{ port: 81, target: 9 }],
      found: [tcp(80), tcp(81, 9)],
    },
    {
      why: 'a TCP port can ask for the PROXY protocol',
      port: '80',
      ports: [{ port: 81, proxyProtocol: 'v2' }],
      found: [tcp(80), { ...tcp(81), proxyProtocol: 'v2' }],
    },
  ]
  for (const { why, found, ...service } of rows)
    t.same(specOf({ ...service }).ports, found, `${why}: ${shown(service)}`)
})

test('a port that cannot be read is refused with the reason', async (t) => {
  const rows: ({ why: string; fault: RegExp } & Written)[] = [
    {
      why: 'the PROXY protocol needs TCP',
      ports: [{ port: 53, protocol: 'udp', proxyProtocol: 'v2' }],
      fault: /works for TCP only/,
    },
    {
      why: 'the PROXY protocol has one version here',
      ports: [{ port: 80, proxyProtocol: 'v1' }],
      fault: /must be v2/,
    },
    { why: 'a port is listed twice', port: '80;80:81', fault: /port 80\/tcp is listed twice/ },
    { why: 'a port is in port and in ports', port: '80', ports: [80], fault: /twice/ },
    { why: 'a word is no port', port: 'http', fault: /"http" is not a port/ },
    { why: 'a range is no port', port: '80-90', fault: /"80-90" is not a port/ },
    { why: '0 is no port', port: '0', fault: /port 0 is outside/ },
    { why: '65536 is no port', port: 65_536, fault: /port 65536 is outside/ },
    { why: 'the port of the program is too high', port: '80:99999', fault: /port 99999 is outside/ },
    { why: 'SCTP is not carried', port: '80/sctp', fault: /is not a port/ },
    { why: 'a negative number is no port', port: -1, fault: /"-1" is not a port/ },
    { why: 'a fraction is no port', port: 1.5, fault: /"1.5" is not a port/ },
    { why: 'true is no port', port: true, fault: /not true/ },
    { why: 'port takes no list', port: ['80'], fault: /not a list/ },
    { why: 'the text is too long', port: '1;'.repeat(2000), fault: /4000 characters/ },
    { why: 'ports takes a list only', ports: '80', fault: /must be a list/ },
    { why: 'an object needs its port', ports: [{ target: 80 }], fault: /is missing/ },
    {
      why: 'in an object the port is a number',
      ports: [{ port: '80' }],
      fault: /must be a whole number, not the string "80"/,
    },
    { why: 'a name must be good for SRV', ports: [{ port: 80, name: 'a b' }], fault: /SRV/ },
    {
      why: 'there are too many',
      ports: Array.from({ length: 65 }, (_, i) => i + 1),
      fault: /64 is the limit/,
    },
  ]
  for (const { why, fault, ...service } of rows) {
    const problems = faultsOf(documentWith({ ...service })).map(({ problem }) => problem)
    t.match(problems.join('\n'), fault, `${why}: ${shown(service)}`)
  }
})
