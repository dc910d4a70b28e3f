import { call, serve } from './serve.ts'

/** Asks the stock instances in turn whether the goods are there. */
serve(async () => ({
  service: 'cart',
  stock: await call('http://shop.acme.stock.prod.any.rr.local:8080/'),
}))
