import { PATH_RULE } from '../core/model/path-rule.ts'

/** The shape of a text, and what it asks for in words. */
export const SHAPES = {
  hostPort: ['^(\\[[0-9a-fA-F:]+\\]|[^:\\s]+):\\d{1,5}$', 'host:port, for example 127.0.0.1:7470 or [::1]:7470'],
  listenAddress: [
    '^(\\[[0-9a-fA-F:]{2,45}\\]|[0-9]{1,3}(\\.[0-9]{1,3}){3}):[1-9]\\d{0,4}$',
    'an address and a port, for example 0.0.0.0:443 or [::]:443',
  ],
  target: [
    '^[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+:[1-9]\\d{0,4}$',
    'a semantic name and a port, for example shop.acme.web.prod.any.closest.local:8080',
  ],
  publicName: [
    '^(\\*\\.)?[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,63})*$',
    'a host name in lower case, for example shop.example.com or *.example.com',
  ],
  file: ['^/[^\\0]{1,4000}$', 'an absolute path of a file'],
  protocolName: ['^[\\x21-\\x7e]{1,32}$', 'a protocol name of ALPN, for example h2 or http/1.1'],
  issuer: [
    '^(off|https://[^\\s/?#]+[^\\s?#]*|http://(127(\\.\\d{1,3}){3}|localhost|\\[::1\\])(:\\d{1,5})?(/[^\\s?#]*)?)$',
    'off, or the URL of an identity provider that begins with https://; http:// on this machine only',
  ],
  claim: ['^[\\x21-\\x7e]{1,200}$', 'the name of a claim, for example groups'],
  url: ['^https://', 'a URL that begins with https://'],
  collector: [
    '^(off|https?://[^\\s/]+.*)$',
    'off, or a URL that begins with http:// or https://, for example http://127.0.0.1:4318',
  ],
  flowLog: [
    '^(off|unix:///[^\\s]+|(udp|tcp|tls)://(\\[[0-9a-fA-F:.]+\\]|[^\\s:/@]+):\\d{1,5}|https?://[^\\s/]+.*)$',
    'off, unix:///dev/log, udp://host:514, tcp://host:601, tls://host:6514, or the URL of a collector that begins with http:// or https://',
  ],
  name: [
    '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$',
    'a name of lower-case letters, digits and inner hyphens, 63 characters at most',
  ],
  zone: [
    '^[a-z0-9-]{1,63}(\\.[a-z0-9-]{1,63}){0,7}$',
    'a zone in lower case without a dot at either end, for example local or mesh.example',
  ],
  paths: [
    PATH_RULE,
    'any, direct-only, relay-only, prefer-direct, prefer-relayed, or the paths to leave out, for example no-punched or "no-direct no-reverse"',
  ],
  interface: ['^[^\\s/*"]{1,15}\\*?$', 'the name of a network interface, for example docker0 or br-*'],
  uids: ['^[1-9][0-9]{2,8}-[1-9][0-9]{2,8}$', 'two uids, for example 60578-61183'],
  engine: ['^(auto|off|(unix://)?/[^\\0]{1,250})$', 'auto, off, or the path of the socket of a container engine'],
  subnet: [
    '^(auto|[0-9.]{7,15}/(1[0-9]|2[0-9]|8|9))$',
    'auto, or an IPv4 range of /8 to /29, for example 172.31.0.0/16',
  ],
  hostPorts: ['^(off|[1-9][0-9]{0,4}-[1-9][0-9]{0,4})$', 'off, or two ports, for example 1024-65535'],
  folder: ['^/[^\\0]{0,4000}$', 'an absolute path, for example /srv/data'],
  prefix: ['^(auto|[0-9.]{7,15}/(12|16))$', 'auto, or an IPv4 range of /12 or /16, for example 127.16.0.0/12'],
} as const

/** What a pattern asks for. */
export function wordsFor(pattern: string): string {
  return Object.values(SHAPES).find(([shape]) => shape === pattern)?.[1] ?? `like ${pattern}`
}
