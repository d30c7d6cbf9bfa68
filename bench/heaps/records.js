// SPDX-License-Identifier: GPL-2.0-or-later
// The records of records.py, as a service keeps them: parsed, and found by Maps.
'use strict';
const fs = require('fs');

let state = 12345;
function random(n) {
	state = (Math.imul(state, 1103515245) + 12345) >>> 0;
	return Math.floor((state / 4294967296) * n);
}
const pick = (list) => list[random(list.length)];
const FIRST = 'anna ben carla david elif fatima george hanna ivan julia karim lena mehmet nora omar paula'.split(' ');
const LAST = 'smith mueller garcia novak rossi yilmaz kowalski jansen silva petrov dubois larsen'.split(' ');
const CITY = 'berlin paris madrid rome vienna prague warsaw lisbon dublin oslo athens zagreb'.split(' ');
const WORDS = ('the order was sent today and will arrive on monday please call us when you have any question ' +
	'about delivery price returns warranty or payment thank you for shopping with us your customer').split(' ');

function record(number) {
	const first = pick(FIRST), last = pick(LAST);
	const note = [], items = [];
	let token = '';
	for (let i = random(20) + 4; i > 0; i--)
		note.push(pick(WORDS));
	for (let i = random(4) + 1; i > 0; i--)
		items.push({ sku: 'A' + random(1000000), count: random(9), price: random(99999) / 100 });
	while (token.length < 32)
		token += random(0x10000).toString(16);
	return {
		id: number, name: first + ' ' + last, mail: `${first}.${last}${random(10000)}@example.org`,
		city: pick(CITY), token, created: new Date(1600000000000 + random(100000000)),
		balance: random(100000) / 100, note: note.join(' '), items, active: random(10) < 7,
	};
}

const users = [], byMail = new Map(), byCity = new Map();
for (let n = 0; n < Number(process.env.MIB) * 450; n++) {
	const user = JSON.parse(JSON.stringify(record(n)));
	users.push(user);
	byMail.set(user.mail, user);
	byCity.set(user.city, (byCity.get(user.city) || []).concat().slice(-50).concat([user]));
}
fs.writeFileSync(process.env.READY, '');
setInterval(() => users.length + byMail.size, 100000);
